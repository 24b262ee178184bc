//! All collections of one snapshot, reachable only through a scope.

use crate::bits::Bits;
use crate::filter::Filter;
use crate::segment::{Allowed, Segment};
use std::collections::HashMap;
use std::sync::Arc;

/// Whose texts may be found. Made from an authenticated caller's tenant, and needed for every query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    tenant: [u8; 16],
}

impl Scope {
    /// The scope of one tenant's shared knowledge.
    pub fn of_tenant(tenant: [u8; 16]) -> Scope {
        Scope { tenant }
    }

    /// For cache keys: two scopes with equal bytes see the same texts.
    pub fn bytes(&self) -> [u8; 16] {
        self.tenant
    }
}

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

/// The collections of one snapshot.
#[derive(Clone, Default)]
pub struct Library {
    collections: HashMap<([u8; 16], String), Collection>,
}

impl Library {
    pub fn add(&mut self, tenant: [u8; 16], name: String, collection: Collection) {
        self.collections.insert((tenant, name), collection);
    }

    /// The scope's collection of that name.
    pub fn collection(&self, scope: Scope, name: &str) -> Option<&Collection> {
        self.collections.get(&(scope.tenant, name.to_owned()))
    }
}
