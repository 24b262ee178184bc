//! What encoders share: who speaks when, how calls are named, what numbers mean.

use super::neutral::{Call, Conversation, Outcome, Part, Role, Text};
use super::read::{Read, Written, fault};
use crate::json::{Document, Kind, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What stands between texts that become one; escaped.
pub const BETWEEN: &str = "\\n\\n";

/// One side's parts that go out together.
pub struct Run<'c, 'd> {
    pub role: Role,
    pub parts: Vec<&'c Part<'d>>,
}

/// The conversation as providers want it: a tool's results follow the call in one run, before what the user says.
/// Turns of the system are left out unless `with_system`.
pub fn runs<'c, 'd>(conversation: &'c Conversation<'d>, with_system: bool) -> Vec<Run<'c, 'd>> {
    let mut runs: Vec<Run<'c, 'd>> = Vec::with_capacity(conversation.turns.len());
    for turn in conversation.turns.iter().filter(|turn| with_system || turn.role != Role::System) {
        match runs.last_mut() {
            Some(last) if turn.role == Role::User && last.role == Role::User && last.outcomes().next().is_some() => {
                last.parts.extend(&turn.parts);
            }
            _ => runs.push(Run { role: turn.role, parts: turn.parts.iter().collect() }),
        }
    }
    for run in &mut runs {
        if run.role == Role::User {
            run.parts.sort_by_key(|part| !matches!(part, Part::Outcome(_)));
        }
    }
    runs
}

impl<'c, 'd> Run<'c, 'd> {
    pub fn outcomes(&self) -> impl Iterator<Item = &'c Outcome<'d>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Outcome(outcome) => Some(outcome),
            _ => None,
        })
    }
}

/// The texts among parts.
pub fn texts<'c, 'd: 'c>(parts: impl Iterator<Item = &'c Part<'d>>) -> impl Iterator<Item = &'c Text<'d>> {
    parts.filter_map(|part| match part {
        Part::Text(text) => Some(text),
        _ => None,
    })
}

/// The texts of a tool's result as one.
pub fn said<'d>(outcome: &Outcome<'d>) -> Written<'d> {
    Written::joined(texts(outcome.parts.iter()).map(|text| &text.text), BETWEEN)
}

fn calls<'c, 'd>(conversation: &'c Conversation<'d>) -> impl Iterator<Item = &'c Call<'d>> {
    conversation.turns.iter().flat_map(|turn| &turn.parts).filter_map(|part| match part {
        Part::Call(call) => Some(call),
        _ => None,
    })
}

/// Ids of calls as the target takes them. An id that it takes stays; the others are numbered, so that the same
/// conversation gets the same ids each time it is sent.
pub struct Ids<'c> {
    others: HashMap<&'c str, String>,
}

impl<'c> Ids<'c> {
    /// `fits`: whether the target takes an id.
    pub fn new(conversation: &'c Conversation<'_>, fits: fn(&str) -> bool) -> Ids<'c> {
        let taken: HashSet<&str> = calls(conversation).map(|call| &*call.id).collect();
        let mut others = HashMap::new();
        let mut made = 0;
        for call in calls(conversation).filter(|call| !fits(&call.id)) {
            others.entry(&*call.id).or_insert_with(|| {
                loop {
                    made += 1;
                    let id = format!("call_{made}");
                    if !taken.contains(&*id) {
                        return id;
                    }
                }
            });
        }
        Ids { others }
    }

    pub fn get<'i>(&'i self, id: &'i str) -> &'i str {
        self.others.get(id).map_or(id, String::as_str)
    }
}

/// Names of the called functions by the call's id.
pub fn names<'c, 'd>(conversation: &'c Conversation<'d>) -> HashMap<&'c str, &'c Written<'d>> {
    calls(conversation).map(|call| (&*call.id, &call.name)).collect()
}

/// A call's arguments as a JSON object; models write nothing where a function takes nothing.
pub fn arguments<'c, 'd>(call: &'c Call<'d>) -> Read<'d, &'c str> {
    let arguments = call.arguments.trim();
    match arguments {
        "" => Ok("{}"),
        _ if is_object(arguments) => Ok(arguments),
        _ => fault(call.at, "has arguments that are no JSON object"),
    }
}

/// Whether a text is a JSON object.
pub fn is_object(text: &str) -> bool {
    text.starts_with('{') && Document::parse(text).is_ok_and(|document| document.root(text).kind() == Kind::Object)
}

/// What a number is, for comparing; it is written as it was spelled.
pub fn amount(value: Value<'_>) -> f64 {
    value.raw().parse().unwrap_or(f64::NAN)
}

/// The limit of an answer's tokens: what was asked, reduced to what the model can.
pub fn max_tokens<'d>(asked: Option<Value<'d>>, limit: Option<u32>) -> Option<Cow<'d, str>> {
    match (asked, limit) {
        (Some(asked), Some(limit)) if amount(asked) > f64::from(limit) => Some(Cow::Owned(limit.to_string())),
        (Some(asked), _) => Some(Cow::Borrowed(asked.raw())),
        (None, _) => None,
    }
}
