//! All collections of one snapshot, reachable only through a scope.

use crate::segment::Segment;
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

/// A named set of segments.
#[derive(Clone)]
pub struct Collection {
    segments: Vec<Arc<Segment>>,
}

/// The collections of one snapshot.
#[derive(Clone, Default)]
pub struct Library {
    collections: HashMap<([u8; 16], String), Collection>,
}

impl Library {
    pub fn add(&mut self, tenant: [u8; 16], name: String, segments: Vec<Arc<Segment>>) {
        self.collections.insert((tenant, name), Collection { segments });
    }

    /// The scope's collection of that name.
    pub fn collection(&self, scope: Scope, name: &str) -> Option<&Collection> {
        self.collections.get(&(scope.tenant, name.to_owned()))
    }

    /// Every opened segment, for the next snapshot to take over.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.collections.values().flat_map(|collection| &collection.segments)
    }
}

impl Collection {
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
