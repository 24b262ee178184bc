//! Which templates and tools a prompt names, with their versions: decided once, ahead, for an environment.

use crate::StoreError;
use crate::content::{Content, Kind, PromptContent, Selector, link};
use crate::database::Work;
use serde_json::Value;
use sluice_segment::Tool;
use sluice_text::Partials;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

/// What a prompt is made of beside itself.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub partials: Partials,
    /// As the prompt lists them.
    pub tools: Vec<Tool>,
    /// The settings that its variables name.
    pub settings: BTreeMap<String, Value>,
    /// The names that follow what others add: neither a version nor what is deployed.
    pub floating: Vec<String>,
}

/// All partials, tools and public settings of a tenant.
pub(crate) struct Shelf {
    known: HashMap<(Kind, String), Shelved>,
    settings: HashMap<String, Value>,
}

#[derive(Default)]
struct Shelved {
    usable: bool,
    /// By number: the content, and whether it is deprecated.
    versions: BTreeMap<i64, (Content, bool)>,
    /// By environment.
    deployed: HashMap<String, i64>,
}

impl Shelf {
    pub(crate) async fn of(work: &mut Work, tenant: &[u8]) -> Result<Shelf, StoreError> {
        let mut known: HashMap<(Kind, String), Shelved> = HashMap::new();
        let rows = sqlx::query("SELECT a.kind AS kind, a.alias AS alias, a.enabled AS enabled, a.archived_at AS archived_at, v.number AS number, v.body AS body, v.deprecated_at AS deprecated_at FROM artifact a JOIN artifact_version v ON v.artifact_id = a.id WHERE a.tenant_id = $1 AND a.kind IN ('partial', 'tool')")
            .bind(tenant)
            .fetch_all(&mut **work)
            .await?;
        for row in rows {
            let kind = Kind::from_str(row.try_get("kind")?)?;
            let shelved = known.entry((kind, row.try_get("alias")?)).or_default();
            shelved.usable =
                row.try_get::<i64, _>("enabled")? == 1 && row.try_get::<Option<i64>, _>("archived_at")?.is_none();
            let content = Content::read(kind, &row.try_get::<String, _>("body")?)?;
            let deprecated = row.try_get::<Option<i64>, _>("deprecated_at")?.is_some();
            shelved.versions.insert(row.try_get("number")?, (content, deprecated));
        }
        let rows = sqlx::query("SELECT a.kind AS kind, a.alias AS alias, d.environment AS environment, v.number AS number FROM deployment d JOIN artifact a ON a.id = d.artifact_id LEFT JOIN artifact_version v ON v.id = d.version_id WHERE a.tenant_id = $1 AND a.kind IN ('partial', 'tool') ORDER BY d.revision")
            .bind(tenant)
            .fetch_all(&mut **work)
            .await?;
        for row in rows {
            let kind = Kind::from_str(row.try_get("kind")?)?;
            let shelved = known.entry((kind, row.try_get("alias")?)).or_default();
            let environment: String = row.try_get("environment")?;
            match row.try_get::<Option<i64>, _>("number")? {
                Some(number) => shelved.deployed.insert(environment, number),
                None => shelved.deployed.remove(&environment),
            };
        }
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT name, value FROM setting WHERE tenant_id = $1 AND public = 1")
                .bind(tenant)
                .fetch_all(&mut **work)
                .await?;
        // As a default `null` would be none.
        let read = |(name, value): (String, String)| {
            let value = serde_json::from_str(&value).ok().filter(|value: &Value| !value.is_null())?;
            Some((name, value))
        };
        Ok(Shelf { known, settings: rows.into_iter().filter_map(read).collect() })
    }

    /// Everything that `content` names, directly or not.
    pub(crate) fn resolve(&self, environment: &str, content: &PromptContent) -> Result<Parts, StoreError> {
        let mut found = Parts::default();
        let mut path = Vec::new();
        for name in content.includes()? {
            self.follow(environment, &name, &mut path, &mut found)?;
        }
        for name in content.tools.iter().flat_map(|tools| &tools.available) {
            let tool = tool_of(name, self.choose(environment, Kind::Tool, name, &mut found.floating)?)?;
            if found.tools.iter().any(|known| known.name == tool.name) {
                return Err(StoreError::Invalid(format!("two of its tools are called `{}`", tool.name)));
            }
            found.tools.push(tool);
        }
        for name in content.variables.iter().flatten().filter_map(|(_, variable)| variable.setting.as_ref()) {
            let value = self.settings.get(name).ok_or_else(|| {
                StoreError::Invalid(format!(
                    "a variable names the setting `{name}`, which does not exist, is not public or has no value"
                ))
            })?;
            found.settings.insert(name.clone(), value.clone());
        }
        Ok(found)
    }

    fn follow(
        &self,
        environment: &str,
        name: &str,
        path: &mut Vec<String>,
        found: &mut Parts,
    ) -> Result<(), StoreError> {
        let alias = link(Kind::Partial, name)?.alias;
        if path.contains(&alias) {
            return Err(StoreError::Invalid(format!(
                "the partials include each other in a circle: {} › {alias}",
                path.join(" › "),
            )));
        }
        if found.partials.contains_key(name) {
            return Ok(());
        }
        let content = self.choose(environment, Kind::Partial, name, &mut found.floating)?;
        let text = content.template().and_then(|content| content.messages.first());
        let text = text.map(|message| message.content.as_str()).unwrap_or_default();
        found.partials.insert(name.to_owned(), text.to_owned());
        path.push(alias);
        for inner in PromptContent::of_text(text).includes()? {
            self.follow(environment, &inner, path, found)?;
        }
        path.pop();
        Ok(())
    }

    fn choose(
        &self,
        environment: &str,
        kind: Kind,
        name: &str,
        floating: &mut Vec<String>,
    ) -> Result<&Content, StoreError> {
        let named = link(kind, name)?;
        let (alias, written) = (&named.alias, &named.selector);
        let shelved = self.known.get(&(kind, alias.clone()));
        let shelved = shelved.ok_or_else(|| StoreError::NotFound { kind: kind.name(), name: alias.clone() })?;
        if !shelved.usable {
            return Err(StoreError::Invalid(format!("the {kind} `{alias}` is disabled or archived")));
        }
        let number = match Selector::from_str(written)? {
            Selector::Deployed => shelved.deployed.get(environment).copied().ok_or_else(|| {
                let verb = if kind == Kind::Partial { "include" } else { "name" };
                StoreError::Invalid(format!(
                    "the {kind} `{alias}` is not deployed to `{environment}`; deploy it first, or {verb} `{alias}@3` or another version of it"
                ))
            })?,
            Selector::Range(from, to) => {
                if from != to {
                    floating.push(name.to_owned());
                }
                let fitting = shelved.versions.range(from..=to.max(from)).rev();
                let good = fitting.clone().find(|(_, (_, deprecated))| !deprecated);
                // A version that is named exactly is meant, deprecated or not.
                let exact = fitting.clone().next().filter(|_| from == to);
                *good.or(exact).map(|(number, _)| number).ok_or_else(|| {
                    StoreError::Invalid(format!("the {kind} `{alias}` has no version that fits `@{written}`"))
                })?
            }
        };
        shelved
            .versions
            .get(&number)
            .map(|(content, _)| content)
            .ok_or_else(|| StoreError::Invalid(format!("the {kind} `{alias}` has no version {number}")))
    }
}

/// A tool as requests carry it. Its name is its alias, or what its content says.
fn tool_of(link: &str, content: &Content) -> Result<Tool, StoreError> {
    let alias = link.split('@').next().unwrap_or_default();
    let data = match content {
        Content::Data(data) => data,
        Content::Template(_) => return Err(StoreError::Invalid(format!("`{alias}` is no tool"))),
    };
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let name = text("name").unwrap_or(alias);
    // OpenAI's and Anthropic's rule for the names of functions.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        return Err(StoreError::Invalid(format!(
            "the tool `{alias}` is called `{name}`; providers take 1 to 64 letters, digits, `_` and `-`: give it a `name`"
        )));
    }
    let parameters = data.get("parameters").cloned();
    let parameters = parameters.unwrap_or_else(|| serde_json::json!({ "type": "object", "properties": {} }));
    Ok(Tool {
        name: name.to_owned(),
        description: text("description").unwrap_or_default().to_owned(),
        parameters: parameters.to_string(),
    })
}
