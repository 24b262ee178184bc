//! Epochs that were in force, and going back to one.

use crate::database::Whose;
use crate::publish::{epoch_path, fixed, object_path, read_manifest};
use crate::{Identity, PublishError, Store, StoreError, Tenancy, now};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::Serialize;
use serde_json::json;
use sluice_segment::{Erasure, Manifest, Mapped, ObjectRef, Registry, VerifyingKey, unit_hash, unit_key};
use std::sync::Arc;
use utoipa::ToSchema;

/// Epochs that can be gone back to.
const KEPT: usize = 32;
/// How long edges are told of an erasure, in microseconds: longer than a session can be kept.
pub(crate) const TOLD: i64 = 366 * 86_400_000_000;

/// A publication whose prompts or experiments differed from those before it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Epoch {
    pub epoch: u64,
    /// Microseconds since the Unix epoch.
    pub published_at: i64,
    /// Whether its prompts are in force by a roll-back.
    pub rolled_back_to: bool,
}

impl Store {
    /// What was published at `location` and is kept, newest first.
    pub async fn epochs(&self, location: &Arc<dyn ObjectStore>) -> Result<Vec<Epoch>, PublishError> {
        let trusted = Identity::open(self.folder()).map_err(StoreError::from)?.trusted;
        let back_to = self.rolled_back().await?;
        let mut epochs = Vec::new();
        for path in kept(location).await?.into_iter().take(KEPT) {
            let bytes = location.get(&path).await?.bytes().await?;
            // What another publisher left there is not ours to go back to.
            if let Ok(manifest) = Manifest::verify(&bytes, &trusted) {
                let Manifest { epoch, published_at, .. } = manifest;
                epochs.push(Epoch { epoch, published_at, rolled_back_to: back_to == Some(epoch) });
            }
        }
        Ok(epochs)
    }

    /// The epoch whose prompts are in force instead of what is deployed.
    pub(crate) async fn rolled_back(&self) -> Result<Option<u64>, StoreError> {
        let mut read = self.database.read(Whose::All).await?;
        let found: Option<i64> = sqlx::query_scalar("SELECT epoch FROM rollback").fetch_optional(&mut *read).await?;
        Ok(found.and_then(|epoch| u64::try_from(epoch).ok()))
    }

    /// The registry of an epoch that is kept.
    pub(crate) async fn registry_of(
        &self,
        location: &Arc<dyn ObjectStore>,
        epoch: u64,
        trusted: &[VerifyingKey],
    ) -> Result<Registry, PublishError> {
        let bytes = match location.get(&epoch_path(epoch)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(gone(epoch)),
            Err(error) => return Err(error.into()),
        };
        let manifest = Manifest::verify(&bytes, trusted)?;
        self.read_registry(location, &manifest.registry).await
    }

    /// A registry at `location`.
    pub(crate) async fn read_registry(
        &self,
        location: &Arc<dyn ObjectStore>,
        object: &ObjectRef,
    ) -> Result<Registry, PublishError> {
        let bytes = location.get(&object_path(object.hash)).await?.bytes().await?;
        let found = sluice_segment::ObjectHash::of(&bytes);
        if found != object.hash {
            return Err(PublishError::Damaged { hash: object.hash, found });
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &bytes)?;
        let registry =
            Mapped::<Registry>::open(file.path()).map_err(|error| PublishError::Encode(error.to_string()))?;
        registry.get().to_owned().map_err(|error| PublishError::Encode(error.to_string()))
    }

    /// Removes the oldest manifests that are kept; gives the objects that going back to the others needs.
    pub(crate) async fn keep_epochs(
        &self,
        location: &Arc<dyn ObjectStore>,
        trusted: &[VerifyingKey],
    ) -> Result<Vec<ObjectPath>, PublishError> {
        let back_to = self.rolled_back().await?.map(epoch_path);
        let mut needed = Vec::new();
        for (place, path) in kept(location).await?.into_iter().enumerate() {
            if place >= KEPT && Some(&path) != back_to.as_ref() {
                location.delete(&path).await?;
                continue;
            }
            let bytes = location.get(&path).await?.bytes().await?;
            if let Ok(manifest) = Manifest::verify(&bytes, trusted) {
                needed.push(object_path(manifest.registry.hash));
            }
        }
        Ok(needed)
    }

    /// The erasures that edges are still told of, oldest first.
    pub(crate) async fn erasures(&self) -> Result<Vec<Erasure>, StoreError> {
        let find = "SELECT unit, at FROM erasure WHERE at > $1 ORDER BY at, unit";
        let found: Vec<(Vec<u8>, i64)> =
            sqlx::query_as(find).bind(now() - TOLD).fetch_all(&mut *self.database.read(Whose::All).await?).await?;
        Ok(found.into_iter().map(|(unit, at)| Erasure { unit: hex::encode(unit), at }).collect())
    }
}

impl Tenancy {
    /// Has the prompts of an epoch in force for all tenants, or again what is deployed. The caller publishes.
    pub async fn go_back(&self, location: &Arc<dyn ObjectStore>, epoch: Option<u64>) -> Result<(), PublishError> {
        // Nothing is swept away between looking and going.
        let _alone = self.store.publish_alone().await?;
        let kept = match epoch {
            None => None,
            Some(epoch) => {
                let trusted = Identity::open(self.store.folder()).map_err(StoreError::from)?.trusted;
                let newest = read_manifest(location).await?.ok_or(PublishError::Nothing)?;
                if epoch > Manifest::verify(&newest, &trusted)?.epoch {
                    return Err(gone(epoch));
                }
                // An epoch that changed documents or keys alone has the prompts of the one before it.
                let at_most = epoch_path(epoch);
                let path = kept(location).await?.into_iter().find(|path| *path <= at_most);
                let bytes = location.get(&path.ok_or_else(|| gone(epoch))?).await?.bytes().await?;
                let manifest = Manifest::verify(&bytes, &trusted)?;
                self.store.read_registry(location, &manifest.registry).await?;
                Some(manifest.epoch)
            }
        };
        let mut write = self.store.database.write(Whose::All).await?;
        let protected: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM protected_environment").fetch_one(&mut *write).await?;
        if protected > 0 && !self.protected_too {
            let reason = "an environment is protected; it takes an operator with the scope `protected`";
            return Err(StoreError::Forbidden(reason.to_owned()).into());
        }
        sqlx::query("DELETE FROM rollback").execute(&mut *write).await?;
        if let Some(epoch) = kept {
            sqlx::query("INSERT INTO rollback (epoch, actor, at) VALUES ($1, $2, $3)")
                .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
                .bind(&self.actor)
                .bind(now())
                .execute(&mut *write)
                .await?;
        }
        let entity = epoch.map_or_else(|| "deployed".to_owned(), |epoch| epoch.to_string());
        self.record(&mut write, "snapshot.rolled_back", &entity, json!(null)).await?;
        Ok(write.commit().await?)
    }

    /// The hash under which edges and records know a subject.
    pub(crate) fn subject_hash(&self, subject: &str) -> Result<[u8; 16], StoreError> {
        let identity = Identity::open(self.store.folder())?;
        Ok(unit_hash(&unit_key(&identity.pepper), &fixed(self.id.clone())?, "subject", subject))
    }
}

fn gone(epoch: u64) -> PublishError {
    PublishError::Store(StoreError::Invalid(format!(
        "epoch {epoch} is not kept at the snapshot location; see `sluice epoch list`"
    )))
}

/// The manifests that are kept, newest first.
async fn kept(location: &Arc<dyn ObjectStore>) -> Result<Vec<ObjectPath>, PublishError> {
    let listed = location.list_with_delimiter(Some(&ObjectPath::from("manifests"))).await?;
    let mut paths: Vec<ObjectPath> = listed.objects.into_iter().map(|object| object.location).collect();
    paths.sort_unstable_by(|left, right| right.cmp(left));
    Ok(paths)
}
