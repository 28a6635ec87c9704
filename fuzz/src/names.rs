use towline_agent::doors;

/// `/etc/passwd` and `/etc/group` of an image or of this host, behind a line with `user:group`, and an empty line between them: a
/// number is itself, and where both readers know a name, it has the same number for both.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (account, files) = text.split_once('\n').unwrap_or((&text, ""));
    let (passwd, groups) = files.split_once("\n\n").unwrap_or((files, ""));
    let (user, group) = account.split_once(':').unwrap_or((account, "0"));
    let of_image = doors::ids_of_image(user, group, passwd, groups);
    let of_host = doors::ids_of_host(&format!("{user}:{group}"), passwd, groups);
    let most = u64::from(u32::MAX);
    assert!(of_image.is_none_or(|(uid, gid)| uid <= most && gid <= most), "{of_image:?}");
    if let (Ok(uid), Ok(gid)) = (user.parse::<u32>(), group.parse::<u32>()) {
        assert_eq!(of_image, Some((uid.into(), gid.into())));
        assert_eq!(of_host, Some((uid, gid)));
    }
    if let (Some(of_image), Some((uid, gid))) = (of_image, of_host) {
        assert_eq!(of_image, (uid.into(), gid.into()), "{account:?}");
    }
    // Without a group: that of the user's own entry.
    let _some = doors::ids_of_host(user, passwd, groups);
}
