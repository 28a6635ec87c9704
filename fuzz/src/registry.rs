use towline_agent::doors::{self, Registry};

/// The file that `docker login` writes: each registry that an image can name is found by it, and what is wrong is said.
pub fn registry(data: &[u8]) {
    match doors::registries(data) {
        Ok(registries) => {
            for Registry { name, found } in registries {
                let is_host = name == "localhost" || name.contains(['.', ':']);
                assert!(!is_host || found != Ok(false), "nothing is found for {name:?}");
                assert!(!name.contains('/'), "{name:?} is no registry");
                assert!(found.err().is_none_or(|why| !why.is_empty()), "refused without a word");
            }
        }
        Err(why) => assert!(!why.trim().is_empty(), "refused without a word"),
    }
}
