//! All collections of one snapshot, reachable only through a scope.

use crate::bits::Bits;
use crate::filter::Filter;
use crate::segment::{Allowed, Segment};
use sluice_text::Model;
use std::collections::HashMap;
use std::sync::Arc;

/// Whose texts may be found. Made from an authenticated caller's tenant, and needed for every query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    tenant: [u8; 16],
    subject: Option<SubjectMark>,
}

impl Scope {
    /// The scope of one tenant's shared knowledge.
    pub fn of_tenant(tenant: [u8; 16]) -> Scope {
        Scope { tenant, subject: None }
    }

    /// The same, with what is this subject's own.
    pub fn with_subject(self, subject: &str) -> Scope {
        Scope { subject: Some(SubjectMark::of(&self.tenant, subject)), ..self }
    }

    /// For cache keys: two scopes with equal bytes see the same texts.
    pub fn bytes(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[..16].copy_from_slice(&self.tenant);
        if let Some(SubjectMark(mark)) = &self.subject {
            bytes[16] = 1;
            bytes[17..].copy_from_slice(mark);
        }
        bytes
    }
}

/// What a tenant's subject is known by where texts are kept, so that no index holds what a program calls its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubjectMark([u8; 16]);

impl SubjectMark {
    /// Member of a payload in which the mark stands.
    pub const MEMBER: &'static str = "$subject";

    pub fn of(tenant: &[u8; 16], subject: &str) -> SubjectMark {
        let mut hasher = blake3::Hasher::new_derive_key("sluice 2026-11 mark of a subject");
        hasher.update(tenant).update(subject.as_bytes());
        let mut mark = [0; 16];
        hasher.finalize_xof().fill(&mut mark);
        SubjectMark(mark)
    }
}

impl std::fmt::Display for SubjectMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the name of a collection ends in whose documents belong to single subjects. No collection that anybody names can
/// end so, since a slash is in no name.
pub const PRIVATE: &str = "/subjects";

/// A segment without its passages that are gone.
#[derive(Clone)]
pub(crate) struct Part {
    pub segment: Arc<Segment>,
    /// What is left, and how much; `None` when nothing is gone.
    alive: Option<(Arc<Bits>, usize)>,
}

impl Part {
    /// What of it may be found under `filter`.
    pub fn allowed(&self, filter: &Filter) -> Allowed {
        match (&self.alive, filter.is_empty()) {
            (None, true) => Allowed::All,
            (Some((alive, count)), true) => Allowed::Some(Arc::clone(alive), *count),
            (alive, false) => {
                let mut bits = self.segment.filtered(filter);
                if let Some((alive, _)) = alive {
                    Arc::make_mut(&mut bits).intersect(alive);
                }
                let count = bits.count();
                Allowed::Some(bits, count)
            }
        }
    }
}

/// A named set of segments.
#[derive(Clone)]
pub struct Collection {
    parts: Vec<Part>,
    /// Changes with what can be found in it.
    version: [u8; 32],
}

impl Collection {
    /// The segments without the passages whose sequence numbers are in `dead`, which rise.
    pub fn new(segments: Vec<Arc<Segment>>, dead: &[u64], version: [u8; 32]) -> Collection {
        let parts = segments.into_iter().map(|segment| {
            let gone = segment.numbers(dead.iter().copied());
            let alive = (gone.count() > 0).then(|| {
                let mut alive = Bits::all(segment.len());
                alive.subtract(&gone);
                let count = alive.count();
                (Arc::new(alive), count)
            });
            Part { segment, alive }
        });
        Collection { parts: parts.collect(), version }
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// For cache keys: equal versions hold equal passages.
    pub fn version(&self) -> &[u8; 32] {
        &self.version
    }

    /// How many passages can be found.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.alive.as_ref().map_or(part.segment.len(), |(_, count)| *count)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The collections of one snapshot. What belongs to single subjects stands apart, where no query reaches it but by the
/// scope of its own subject.
#[derive(Clone, Default)]
pub struct Library {
    shared: HashMap<([u8; 16], String), Collection>,
    private: HashMap<([u8; 16], String), Collection>,
}

impl Library {
    /// Adds a collection under the name that it is published by.
    pub fn add(&mut self, tenant: [u8; 16], name: String, collection: Collection) {
        match name.strip_suffix(PRIVATE) {
            Some(name) => self.private.insert((tenant, name.to_owned()), collection),
            None => self.shared.insert((tenant, name), collection),
        };
    }

    /// The scope's shared collection of that name.
    pub fn collection(&self, scope: Scope, name: &str) -> Option<&Collection> {
        self.shared.get(&(scope.tenant, name.to_owned()))
    }

    /// The private collection of that name, and the filter that lets through what the scope's subject owns in it.
    pub(crate) fn private(&self, scope: Scope, name: &str) -> Option<(&Collection, Filter)> {
        let subject = scope.subject?;
        let collection = self.private_of(scope, name)?;
        Some((collection, Filter::equals(SubjectMark::MEMBER, &subject.to_string())))
    }

    fn private_of(&self, scope: Scope, name: &str) -> Option<&Collection> {
        self.private.get(&(scope.tenant, name.to_owned()))
    }

    /// The models of these collections' vectors, each once, but for the one with the id `but`.
    pub fn models(&self, scope: Scope, names: &[String], but: &str) -> Vec<&Model> {
        let mut models: Vec<&Model> = Vec::new();
        for name in names {
            let collections = self.collection(scope, name).into_iter().chain(self.private_of(scope, name));
            for model in collections.flat_map(Collection::parts).map(|part| part.segment.model()) {
                if model.id != but && !models.contains(&model) {
                    models.push(model);
                }
            }
        }
        models
    }

    /// Whether the scope has no collection of that name.
    pub fn lacks(&self, scope: Scope, name: &str) -> bool {
        self.collection(scope, name).is_none() && self.private_of(scope, name).is_none()
    }

    /// For cache keys: what a query of the scope finds under that name changes only with these.
    pub fn versions(&self, scope: Scope, name: &str) -> [Option<&[u8; 32]>; 2] {
        let private = scope.subject.and_then(|_| self.private_of(scope, name));
        [self.collection(scope, name).map(Collection::version), private.map(Collection::version)]
    }
}
