//! Which templates a prompt includes, with their versions: decided once, ahead, for an environment.

use crate::StoreError;
use crate::content::{Content, Kind, PromptContent, Selector, partial_link};
use crate::database::Work;
use sluice_text::Partials;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

/// All partials of a tenant.
pub(crate) struct Shelf {
    partials: HashMap<String, Partial>,
}

#[derive(Default)]
struct Partial {
    usable: bool,
    /// By number: the template, and whether it is deprecated.
    versions: BTreeMap<i64, (String, bool)>,
    /// By environment.
    deployed: HashMap<String, i64>,
}

impl Shelf {
    pub(crate) async fn of(work: &mut Work, tenant: &[u8]) -> Result<Shelf, StoreError> {
        let mut partials: HashMap<String, Partial> = HashMap::new();
        let rows = sqlx::query("SELECT a.alias AS alias, a.enabled AS enabled, a.archived_at AS archived_at, v.number AS number, v.body AS body, v.deprecated_at AS deprecated_at FROM artifact a JOIN artifact_version v ON v.artifact_id = a.id WHERE a.tenant_id = $1 AND a.kind = 'partial'")
            .bind(tenant)
            .fetch_all(&mut **work)
            .await?;
        for row in rows {
            let partial = partials.entry(row.try_get("alias")?).or_default();
            partial.usable =
                row.try_get::<i64, _>("enabled")? == 1 && row.try_get::<Option<i64>, _>("archived_at")?.is_none();
            let content = Content::read(Kind::Partial, &row.try_get::<String, _>("body")?)?;
            let text = content.template().and_then(|content| content.messages.first());
            let text = text.map(|message| message.content.clone()).unwrap_or_default();
            let deprecated = row.try_get::<Option<i64>, _>("deprecated_at")?.is_some();
            partial.versions.insert(row.try_get("number")?, (text, deprecated));
        }
        let rows = sqlx::query("SELECT a.alias AS alias, d.environment AS environment, v.number AS number FROM deployment d JOIN artifact a ON a.id = d.artifact_id LEFT JOIN artifact_version v ON v.id = d.version_id WHERE a.tenant_id = $1 AND a.kind = 'partial' ORDER BY d.revision")
            .bind(tenant)
            .fetch_all(&mut **work)
            .await?;
        for row in rows {
            let partial = partials.entry(row.try_get("alias")?).or_default();
            let environment: String = row.try_get("environment")?;
            match row.try_get::<Option<i64>, _>("number")? {
                Some(number) => partial.deployed.insert(environment, number),
                None => partial.deployed.remove(&environment),
            };
        }
        Ok(Shelf { partials })
    }

    /// Everything that `content` includes, directly or not, by the names that templates use.
    pub(crate) fn resolve(&self, environment: &str, content: &PromptContent) -> Result<Partials, StoreError> {
        let mut found = Partials::new();
        let mut path = Vec::new();
        for name in content.includes()? {
            self.follow(environment, &name, &mut path, &mut found)?;
        }
        Ok(found)
    }

    fn follow(
        &self,
        environment: &str,
        name: &str,
        path: &mut Vec<String>,
        found: &mut Partials,
    ) -> Result<(), StoreError> {
        let link = partial_link(name)?;
        if path.contains(&link.alias) {
            return Err(StoreError::Invalid(format!(
                "the partials include each other in a circle: {} › {}",
                path.join(" › "),
                link.alias
            )));
        }
        if found.contains_key(name) {
            return Ok(());
        }
        let text = self.choose(environment, &link.alias, Selector::from_str(&link.selector)?, &link.selector)?;
        found.insert(name.to_owned(), text.to_owned());
        path.push(link.alias);
        for inner in PromptContent::of_text(text).includes()? {
            self.follow(environment, &inner, path, found)?;
        }
        path.pop();
        Ok(())
    }

    fn choose(&self, environment: &str, alias: &str, selector: Selector, written: &str) -> Result<&str, StoreError> {
        let partial = self.partials.get(alias);
        let partial = partial.ok_or_else(|| StoreError::NotFound { kind: "partial", name: alias.to_owned() })?;
        if !partial.usable {
            return Err(StoreError::Invalid(format!("the partial `{alias}` is disabled or archived")));
        }
        let number = match selector {
            Selector::Deployed => partial.deployed.get(environment).copied().ok_or_else(|| {
                StoreError::Invalid(format!(
                    "the partial `{alias}` is not deployed to `{environment}`; deploy it first, or include `{alias}@3` or another version of it"
                ))
            })?,
            Selector::Range(from, to) => {
                let fitting = partial.versions.range(from..=to.max(from)).rev();
                let good = fitting.clone().find(|(_, (_, deprecated))| !deprecated);
                // A version that is named exactly is meant, deprecated or not.
                let named = fitting.clone().next().filter(|_| from == to);
                *good.or(named).map(|(number, _)| number).ok_or_else(|| {
                    StoreError::Invalid(format!("the partial `{alias}` has no version that fits `@{written}`"))
                })?
            }
        };
        partial
            .versions
            .get(&number)
            .map(|(text, _)| text.as_str())
            .ok_or_else(|| StoreError::Invalid(format!("the partial `{alias}` has no version {number}")))
    }
}
