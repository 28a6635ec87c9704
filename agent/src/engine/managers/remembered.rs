//! What was read of definitions, so that a look at thousands of workloads reads none of them anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use towline_protocol::ItemError;

/// Definitions remembered by one kind: beyond what one instance is made for, at a few hundred bytes each.
const MANY: usize = 16_384;

/// What reading made of definitions, by their digest: what was read of one text is what would be read of it again. Clones
/// share it.
#[derive(Debug)]
pub(super) struct Remembered<T>(Arc<Mutex<HashMap<blake3::Hash, Arc<T>>>>);

impl<T> Clone for Remembered<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Remembered<T> {
    /// What `read` makes of `definition`, or made of it.
    ///
    /// # Errors
    /// Those of `read`, which is asked again the next time.
    pub(super) fn of(
        &self,
        definition: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, ItemError>,
    ) -> Result<Arc<T>, ItemError> {
        let digest = blake3::hash(definition);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        // Without the lock: others look meanwhile.
        let found = Arc::new(read(definition)?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MANY {
            // Mostly of versions that are gone; what is still looked at is read once more.
            all.clear();
        }
        all.insert(digest, Arc::clone(&found));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use towline_protocol::Code;

    use super::*;

    #[test]
    fn a_text_is_read_once_and_a_failure_is_not_remembered() {
        let remembered = Remembered::default();
        let refused = |_: &[u8]| Err(ItemError::new(Code::Invalid, "no"));
        assert!(remembered.of(b"one", refused).is_err());
        let read = |definition: &[u8]| Ok(definition.len());
        assert_eq!(*remembered.of(b"one", read).unwrap(), 3);
        assert_eq!(*remembered.clone().of(b"one", refused).unwrap(), 3);
        assert_eq!(*remembered.of(b"other", read).unwrap(), 5);
    }

    #[test]
    fn it_is_bounded() {
        let remembered = Remembered::default();
        for number in 0..=MANY {
            remembered.of(number.to_string().as_bytes(), |_| Ok(())).unwrap();
        }
        assert_eq!(remembered.0.lock().unwrap().len(), 1);
    }
}
