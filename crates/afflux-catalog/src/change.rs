//! Changes and their fold.

use std::{collections::BTreeMap, sync::Arc};

use afflux_types::{Classified, ErrorKind, ObjectId};
use serde::{Deserialize, Serialize};

use crate::{Object, ObjectKind};

/// One record of the DDL topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// An object comes into being.
    Create(Box<Object>),
    /// An object goes, with everything it keeps.
    Drop {
        /// Which.
        id: ObjectId,
    },
}

/// All objects at one point of the DDL topic. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    objects: Arc<BTreeMap<ObjectId, Arc<Object>>>,
    next: u64,
}

/// A change that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The name is taken.
    #[error("\"{0}\" exists already")]
    Exists(String),
    /// There is no such name.
    #[error("there is no \"{0}\"")]
    Unknown(String),
    /// Others are built on it.
    #[error("\"{name}\" is used by {}", .users.join(", "))]
    InUse {
        /// What was to be dropped.
        name: String,
        /// The names of the views that read it.
        users: Vec<String>,
    },
    /// The record is not a change.
    #[error("the DDL topic holds a record that this build can not read: {0}")]
    Unreadable(String),
}

impl Classified for CatalogError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::InUse { .. } => ErrorKind::Invalid,
            Self::Unreadable(_) => ErrorKind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { users, .. } => Some(format!("drop {} first", users.join(", "))),
            _ => None,
        }
    }
}

impl Catalog {
    /// The object of a name.
    pub fn find(&self, name: &str) -> Option<&Arc<Object>> {
        self.objects.values().find(|object| object.name == name)
    }

    /// The object of an id.
    pub fn get(&self, id: ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(&id)
    }

    /// All objects, oldest first.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// The id for the next object.
    pub fn next_id(&self) -> ObjectId {
        ObjectId(self.next.max(1))
    }

    /// The views that read an object.
    pub fn readers(&self, id: ObjectId) -> Vec<&Arc<Object>> {
        let reads = |object: &Object| match &object.kind {
            ObjectKind::View(view) => view.plan.objects().contains(&id),
            ObjectKind::Source(_) | ObjectKind::Table(_) => false,
        };
        self.objects.values().filter(|object| reads(object)).collect()
    }

    /// The catalog after a change, or why it can not be made.
    pub fn apply(&self, change: &Change) -> Result<Self, CatalogError> {
        let mut objects = BTreeMap::clone(&self.objects);
        let mut next = self.next.max(1);
        match change {
            Change::Create(object) => {
                if self.find(&object.name).is_some() || objects.contains_key(&object.id) {
                    return Err(CatalogError::Exists(object.name.clone()));
                }
                next = next.max(object.id.0 + 1);
                objects.insert(object.id, Arc::new(Object::clone(object)));
            }
            Change::Drop { id } => {
                let Some(object) = objects.get(id) else {
                    return Err(CatalogError::Unknown(format!("object {id}")));
                };
                let users: Vec<_> =
                    self.readers(*id).into_iter().map(|view| view.name.clone()).collect();
                if !users.is_empty() {
                    return Err(CatalogError::InUse { name: object.name.clone(), users });
                }
                objects.remove(id);
            }
        }
        Ok(Self { objects: Arc::new(objects), next })
    }

    /// A change as a record's value.
    pub fn encode(change: &Change) -> Vec<u8> {
        serde_json::to_vec(change).expect("a change has only string keys")
    }

    /// A change from a record's value.
    pub fn decode(bytes: &[u8]) -> Result<Change, CatalogError> {
        let unreadable = |error: serde_json::Error| CatalogError::Unreadable(error.to_string());
        // A plan nests deeper than serde_json's limit, which is for strangers' input.
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        deserializer.disable_recursion_limit();
        let change = Change::deserialize(&mut deserializer).map_err(unreadable)?;
        deserializer.end().map_err(unreadable)?;
        Ok(change)
    }
}
