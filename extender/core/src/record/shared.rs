//! What is shared by `Arc`, written once for each that shares it.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One: `#[serde(with = "shared")]`.
pub(crate) fn serialize<T, S>(one: &Arc<T>, to: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + ?Sized,
    S: Serializer,
{
    one.as_ref().serialize(to)
}

/// As [`serialize`].
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Arc<T>, D::Error>
where
    T: ?Sized,
    Box<T>: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Box::<T>::deserialize(from).map(Arc::from)
}

/// Many: `#[serde(with = "shared::each")]`.
pub(crate) mod each {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<'a, C, T, S>(many: &'a C, to: S) -> Result<S::Ok, S::Error>
    where
        &'a C: IntoIterator<Item = &'a Arc<T>>,
        T: Serialize + ?Sized + 'a,
        S: Serializer,
    {
        to.collect_seq(many.into_iter().map(AsRef::as_ref))
    }

    pub(crate) fn deserialize<'de, C, T, D>(from: D) -> Result<C, D::Error>
    where
        C: FromIterator<Arc<T>>,
        T: ?Sized,
        Box<T>: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let many = Vec::<Box<T>>::deserialize(from)?;
        Ok(many.into_iter().map(Arc::from).collect())
    }
}

/// One or none: `#[serde(with = "shared::maybe")]`.
pub(crate) mod maybe {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(crate) fn serialize<T, S>(one: &Option<Arc<T>>, to: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize + ?Sized,
        S: Serializer,
    {
        one.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<Arc<T>>, D::Error>
    where
        T: ?Sized,
        Box<T>: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Option::<Box<T>>::deserialize(from)?.map(Arc::from))
    }
}
