//! `POST /v1/feedback`: what somebody says of a run, a session or a subject.

use crate::embedders::masked;
use crate::intake::{Body, Intake};
use crate::live::{Live, now_microseconds};
use crate::refuse::{ErrorCode, Refusal};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_policies::grant::Assert;
use sluice_scrub::Rules;
use sluice_segment::{Feedback, Record, unit_hash};
use std::borrow::Cow;

pub const FEEDBACK: &str = "/v1/feedback";
const MAX_COMMENT: usize = 4_096;
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    metric: String,
    value: Option<Value>,
    #[serde(default)]
    comment: String,
    run: Option<String>,
    session: Option<String>,
    subject: Option<String>,
    #[serde(default = "user")]
    source: String,
}

fn user() -> String {
    "user".to_owned()
}

/// Takes feedback into the journal. It is stored within seconds; one value counts for a unit, a metric and a source,
/// the newest.
pub fn feedback(intake: &Intake, live: &Live) -> Result<Bytes, Refusal> {
    let invalid = |message: &str| Refusal::new(ErrorCode::InvalidRequest, message);
    let Body::Json(envelope) = &intake.body else {
        return Err(invalid("Send `POST` with a JSON object: `metric`, `value`, and `run`, `session` or `subject`."));
    };
    let said: Said = serde_json::from_str(envelope.text()).map_err(|error| {
        // Where, and not what: a message may go to a log.
        invalid(&format!(
            "The feedback is not valid (line {}, column {}). It has `metric`, `value` (a boolean or a number), `comment`, `source`, and `run`, `session` or `subject`.",
            error.line(),
            error.column()
        ))
    })?;
    let key = &intake.admitted.principal.key;
    let is_name = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    if !is_name(&said.metric) || !is_name(&said.source) {
        return Err(invalid("`metric` and `source` must have 1 to 128 characters."));
    }
    if said.comment.len() > MAX_COMMENT {
        return Err(invalid("`comment` is longer than 4,096 bytes."));
    }
    let value = match &said.value {
        None | Some(Value::Null) if !said.comment.is_empty() => None,
        Some(Value::Bool(value)) => Some(f64::from(u8::from(*value))),
        Some(Value::Number(number)) => number.as_f64().filter(|value| value.is_finite()),
        _ => return Err(invalid("`value` must be a boolean or a number, or there must be a `comment`.")),
    };
    let (kind, unit) = match (&said.run, &said.session, &said.subject) {
        (Some(run), None, None) if run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            ("run", run.to_ascii_lowercase())
        }
        (Some(_), None, None) => return Err(invalid("`run` is not an `x-sluice-request-id`.")),
        (None, Some(session), None) => ("session", session.clone()),
        (None, None, Some(subject)) => ("subject", subject.clone()),
        _ => return Err(invalid("Name one of `run`, `session` and `subject`.")),
    };
    for (named, assert) in [("session", Assert::Session), ("subject", Assert::Subject)] {
        if kind == named && !key.grant.may(assert) {
            return Err(Refusal::may_not(assert));
        }
    }
    let journal = live
        .journal
        .as_ref()
        .ok_or_else(|| invalid("This edge keeps no records (`snapshot.journal_max_bytes` is 0), and no feedback."))?;
    let unit = match kind {
        "run" => unit,
        kind => hex::encode(unit_hash(&live.record_key, &key.tenant, kind, &unit)),
    };
    let record = Record::Feedback(Feedback {
        tenant: Cow::Borrowed(&key.tenant_name),
        at: now_microseconds(),
        unit_kind: Cow::Borrowed(kind),
        unit: Cow::Owned(unit),
        metric: Cow::Borrowed(&said.metric),
        source: Cow::Borrowed(&said.source),
        value,
        comment: Cow::Owned(masked(&said.comment, &Rules::default())),
    });
    journal.append(&serde_json::to_vec(&record).unwrap_or_default());
    Ok(Bytes::from(json!({ "accepted": true }).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_kept_without_personal_data() {
        assert_eq!(masked("mail ann@example.com, good", &Rules::default()), "mail <EMAIL>, good");
        assert_eq!(masked("good", &Rules::default()), "good");
    }
}
