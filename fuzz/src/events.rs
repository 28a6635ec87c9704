use towline_cli::doors;

/// A stream of events: however the network cuts it, the same events come out, and none of their fields spans lines that it
/// may not.
pub fn events(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = doors::events([stream]);
    let cut = doors::events(stream.chunks(usize::from(size) + 1));
    assert_eq!(cut, whole, "in pieces of {}", usize::from(size) + 1);
    for (name, _, id) in whole.into_iter().flatten() {
        assert!(!name.contains('\n'), "{name:?}");
        assert!(id.is_none_or(|id| !id.contains('\n')));
    }
}
