use bytes::Bytes;
use towline_agent::manifest::identify;
use towline_cli::doors;

/// The file of `towline sync`: each action has something to do, and its documents are those of its id.
pub fn sync_file(data: &[u8]) {
    match doors::sync_file(Bytes::copy_from_slice(data)) {
        Ok(actions) => {
            assert!(!actions.is_empty(), "a file that says nothing was taken");
            for action in actions {
                let documents = [action.delete, action.apply].into_iter().flatten();
                let documents: Vec<Bytes> = documents.map(Into::into).collect();
                assert!(!documents.is_empty(), "{} does nothing", action.id);
                for document in documents {
                    let found = identify("fuzz", &document).map_err(|errors| errors.to_string());
                    let ids = found.map(|found| found.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
                    assert_eq!(ids, Ok(vec![action.id.to_string()]));
                }
            }
        }
        Err(complaints) => assert!(!complaints.trim().is_empty(), "refused without a word"),
    }
}
