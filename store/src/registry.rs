//! What edges must know of every tenant, put together from one state of the store.

use crate::content::PromptContent;
use crate::database::Whose;
use crate::experiments::range;
use crate::publish::fixed;
use crate::resolve::{Parts, Shelf};
use crate::secrets::Keyring;
use crate::{Identity, Store, StoreError, Tenancy};
use serde_json::json;
use sluice_segment::{
    Arm, Example, Experiment, Key, Partial, Prompt, PromptMessage, PromptVersion, Registry, Rule, SealedSecret, Tenant,
    Variable,
};
use sqlx::Row;

/// A credential of a tenant that could not be opened, by its name and origin.
pub(crate) struct Sealed {
    tenant: [u8; 16],
    name: String,
    origin: String,
}

/// Takes credentials over from what is in force, with the contents' key that comes from one of them.
pub(crate) fn keep_credentials(registry: &mut Registry, sealed: &[Sealed], before: Registry) {
    for old in before.tenants {
        let Some(tenant) = registry.tenants.iter_mut().find(|tenant| tenant.id == old.id) else { continue };
        let of_it = |name: &str, origin: &str| {
            sealed.iter().any(|one| one.tenant == old.id && one.name == name && one.origin == origin)
        };
        let kept = old.secrets.into_iter().filter(|secret| of_it(&secret.name, &secret.origin));
        tenant.secrets.extend(kept);
        if sealed.iter().any(|one| one.tenant == old.id && crate::transcripts::is_key(&one.name)) {
            tenant.contents = old.contents;
        }
    }
}

/// Everything, but for credentials that cannot be opened because the store's key cannot be had.
pub(crate) async fn assemble(store: &Store) -> Result<(Registry, Vec<Sealed>), StoreError> {
    let mut read = store.database.read(Whose::All).await?;
    let rows: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT id, slug FROM tenant ORDER BY id").fetch_all(&mut *read).await?;
    drop(read);
    let (mut tenants, mut sealed) = (Vec::new(), Vec::new());
    let mut keyring = Keyring::Unopened;
    for (id, name) in rows {
        let tenancy =
            Tenancy { store: store.clone(), id, name, actor: String::new(), protected_too: false, call: None };
        tenants.push(tenant(&tenancy, &mut keyring, &mut sealed).await?);
    }
    Ok((Registry { tenants }, sealed))
}

async fn tenant(tenancy: &Tenancy, keyring: &mut Keyring, sealed: &mut Vec<Sealed>) -> Result<Tenant, StoreError> {
    let mut read = tenancy.read().await?;
    let rows = sqlx::query("SELECT id, name, cred_hash, rpm, expires_at, routes, models, asserts FROM principal WHERE tenant_id = $1 AND revoked_at IS NULL ORDER BY id").bind(&tenancy.id).fetch_all(&mut *read).await?;
    let mut keys = Vec::new();
    for row in rows {
        keys.push(Key {
            id: fixed(row.try_get("id")?)?,
            name: row.try_get("name")?,
            hash: fixed(row.try_get("cred_hash")?)?,
            requests_per_minute: row.try_get::<i64, _>("rpm")? as u32,
            expires_at: row.try_get("expires_at")?,
            routes: crate::keys::list(row.try_get("routes")?),
            models: crate::keys::list(row.try_get("models")?),
            asserts: crate::keys::list(row.try_get("asserts")?),
        });
    }
    let shelf = Shelf::of(&mut read, &tenancy.id).await?;
    let mut running = tenancy.running(&mut read).await?;
    let mut prompts = Vec::new();
    for found in tenancy.in_force_as_far_as_sound(&mut read, &shelf).await? {
        let place = (found.alias.clone(), found.environment.clone());
        let experiment = match running.remove(&place) {
            None => None,
            Some((experiment, contents)) => {
                let mut arms = Vec::new();
                for (arm, content) in contents {
                    let (from, to) = range(&arm, experiment.coverage);
                    let Ok(parts) = shelf.resolve(&found.environment, &content) else {
                        tracing::error!(
                            experiment = experiment.name,
                            arm = arm.name,
                            "an arm's includes are missing; its units get what is deployed"
                        );
                        continue;
                    };
                    arms.push(Arm { name: arm.name, from, to, version: version(arm.version, content, parts) });
                }
                Some(Experiment { name: experiment.name, seed: experiment.seed, unit: experiment.unit, arms })
            }
        };
        prompts.push(Prompt {
            alias: found.alias,
            environment: found.environment,
            context: found.context,
            version: version(found.version, found.content, found.parts),
            experiment,
        });
    }
    let default_prompt = sqlx::query_scalar(
        "SELECT a.alias FROM tenant t JOIN artifact a ON a.id = t.default_artifact_id WHERE t.id = $1",
    )
    .bind(&tenancy.id)
    .fetch_optional(&mut *read)
    .await?;
    let id: [u8; 16] = fixed(tenancy.id.clone())?;
    let mut secrets = Vec::new();
    let opened = match tenancy.open_secrets(&mut read, keyring).await {
        Err(StoreError::Identity(error)) => {
            tracing::error!(%error, "the store's key cannot be had; what is sealed stays as it is");
            Vec::new()
        }
        opened => opened?,
    };
    if matches!(keyring, Keyring::Unavailable) {
        let mut names = tenancy.secret_names(&mut read).await?;
        if tenancy.keeping(&mut read).await?.is_none() {
            names.retain(|(name, _)| !crate::transcripts::is_key(name));
        }
        sealed.extend(names.into_iter().map(|(name, origin)| Sealed { tenant: id, name, origin }));
    }
    let identity = Identity::open(tenancy.store.folder())?;
    let contents = tenancy.contents(&mut read, &opened).await?;
    for secret in opened.into_iter().filter(|secret| !crate::transcripts::is_key(&secret.name)) {
        let context = SealedSecret::context(&id, &secret.name, &secret.origin);
        let fleet = sluice_segment::fleet_public(&identity.fleet_key);
        let sealed = sluice_segment::seal(&fleet, &identity.signing_key.to_bytes(), &context, &secret.value);
        let sealed = sealed.ok_or_else(|| StoreError::Invalid("`fleet.key` holds no key".to_owned()))?;
        secrets.push(SealedSecret { name: secret.name, origin: secret.origin, sealed });
    }
    Ok(Tenant { id, name: tenancy.name.clone(), keys, prompts, default_prompt, secrets, contents })
}

fn version(number: i64, content: PromptContent, parts: Parts) -> PromptVersion {
    // Without declarations the variables are those that the templates use; the edge finds them in the same way.
    let variables = match content.declared(&parts) {
        Some(declared) => declared,
        None => content.compile(&parts).map(|(template, _)| template.variables().clone()).unwrap_or_default(),
    };
    let declare = |(name, variable)| Variable { name, declaration: json!(variable).to_string() };
    let message = |message: crate::PromptMessage| PromptMessage { role: message.role, template: message.content };
    let rule = |rule: crate::Rule| Rule {
        when: rule.when.to_string(),
        message: PromptMessage { role: rule.role, template: rule.content },
    };
    let (pool, most_examples) =
        content.examples.map_or_else(Default::default, |examples| (examples.pool, examples.max));
    let most_tools = content.tools.and_then(|tools| tools.max).unwrap_or(u32::MAX);
    PromptVersion {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        messages: content.messages.into_iter().map(message).collect(),
        fallback: content.fallback.into_iter().map(message).collect(),
        rules: content.rules.into_iter().map(rule).collect(),
        examples: pool.into_iter().map(|example| Example { input: example.input, output: example.output }).collect(),
        most_examples,
        tools: parts.tools,
        most_tools,
        variables: variables.into_iter().map(declare).collect(),
        partials: parts.partials.into_iter().map(|(name, template)| Partial { name, template }).collect(),
        parameters: json!(content.parameters).to_string(),
    }
}
