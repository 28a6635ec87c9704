//! Files in units.

use std::path::Path;

use bytes::Bytes;

use super::Stand;
use crate::runtime::{FILE_BYTES_MAX, FileAccess, FileKind, FileStat, RuntimeError};

/// A unit that has made some files below its working directory, as its script says.
async fn unit(stand: &Stand<'_>, script: &str) -> String {
    let unit = stand.start(&format!("{script}; echo made; exec sleep 1000"), "").await.unit;
    stand.log(1).await;
    unit
}

fn access(mode: u32) -> FileAccess {
    FileAccess { mode, ..FileAccess::default() }
}

async fn read(stand: &Stand<'_>, unit: &str, path: &str) -> Result<Bytes, RuntimeError> {
    stand.runtime.read(unit, Path::new(path)).await
}

async fn stat(stand: &Stand<'_>, unit: &str, path: &str) -> Result<FileStat, RuntimeError> {
    stand.runtime.stat(unit, Path::new(path)).await
}

async fn copy(
    stand: &Stand<'_>,
    unit: &str,
    path: &str,
    content: &[u8],
    access: &FileAccess,
) -> Result<(), RuntimeError> {
    stand.runtime.copy(unit, Path::new(path), Bytes::copy_from_slice(content), access).await
}

pub(super) async fn a_file_comes_back_as_it_was_put(stand: &mut Stand<'_>) {
    let unit = unit(stand, "umask 077; mkdir dir; echo old > dir/b; ln -s dir/b link").await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (content, mode) in [(&b""[..], 0o600), (b"text", 0o4755), (bytes.as_slice(), 0o640)] {
        copy(stand, &unit, "dir/a", content, &access(mode)).await.expect("it is put");
        assert_eq!(read(stand, &unit, "dir/a").await.expect("it is there"), content);
        let found = stat(stand, &unit, "dir/a").await.expect("it is there");
        assert_eq!((found.kind, found.mode), (FileKind::File, mode));
        assert_eq!(found.size, content.len() as u64);
    }
    copy(stand, &unit, "dir/b", b"new", &access(0o600)).await.expect("what is there is replaced");
    assert_eq!(read(stand, &unit, "dir/b").await.expect("it is there"), "new");
    assert_eq!(read(stand, &unit, "link").await.expect("a link is followed"), "new");
    assert_eq!(stat(stand, &unit, "link").await.expect("a link is there").kind, FileKind::Link);
    copy(stand, &unit, "link", b"no link", &access(0o600)).await.expect("a link is replaced");
    assert_eq!(stat(stand, &unit, "link").await.expect("it is there").kind, FileKind::File);
    assert_eq!(read(stand, &unit, "dir/b").await.expect("it is there"), "new", "and not what it led to");
    stand.runtime.stop(&unit).await.expect("it stops");
    assert_eq!(read(stand, &unit, "dir/b").await.expect("what has stopped has its files"), "new");
}

pub(super) async fn a_path_may_be_relative(stand: &mut Stand<'_>) {
    let unit = unit(stand, "mkdir dir; echo here > dir/a; pwd > where").await;
    let dir = read(stand, &unit, "where").await.expect("it is there");
    let dir = String::from_utf8_lossy(&dir).trim().to_owned();
    assert_eq!(read(stand, &unit, &format!("{dir}/dir/a")).await.expect("it is there"), "here\n");
    assert_eq!(read(stand, &unit, "./dir/../dir/a").await.expect("it is there"), "here\n");
    assert_eq!(stat(stand, &unit, "dir").await.expect("it is there").kind, FileKind::Directory);
    assert_eq!(stat(stand, &unit, "/").await.expect("it is there").kind, FileKind::Directory);
}

pub(super) async fn files_belong_to_whom_they_are_given(stand: &mut Stand<'_>) {
    let unit = unit(stand, "echo own > own").await;
    let own = stat(stand, &unit, "own").await.expect("it is there");
    copy(stand, &unit, "a", b"x", &access(0o600)).await.expect("it is put");
    let found = stat(stand, &unit, "a").await.expect("it is there");
    assert_eq!((found.uid, found.gid), (own.uid, own.gid), "the unit's own");
    let (owner, group) = (Some(own.uid.to_string()), Some(own.gid.to_string()));
    copy(stand, &unit, "a", b"x", &FileAccess { mode: 0o600, owner, group }).await.expect("it is put");
    let stranger = FileAccess { mode: 0o600, owner: Some("no-such-user".to_owned()), group: None };
    let refused = copy(stand, &unit, "a", b"y", &stranger).await;
    assert!(matches!(&refused, Err(RuntimeError::NoSuchUser { what: "user", .. })), "{refused:?}");
    assert_eq!(read(stand, &unit, "a").await.expect("it is there"), "x", "it is as it was");
    // Only root gives files away.
    if own.uid == 0 {
        let given = FileAccess { mode: 0o640, owner: Some("33".to_owned()), group: Some("root".to_owned()) };
        copy(stand, &unit, "a", b"x", &given).await.expect("it is put");
        let found = stat(stand, &unit, "a").await.expect("it is there");
        assert_eq!((found.uid, found.gid, found.mode), (33, 0, 0o640));
    }
}

pub(super) async fn what_is_not_there_is_not_found(stand: &mut Stand<'_>) {
    let absent = |error: &RuntimeError| matches!(error, RuntimeError::NotFound { unit } if unit == "web-0");
    assert!(read(stand, "web-0", "/etc").await.is_err_and(|error| absent(&error)));
    assert!(stat(stand, "web-0", "/etc").await.is_err_and(|error| absent(&error)));
    assert!(copy(stand, "web-0", "/tmp/a", b"", &access(0o600)).await.is_err_and(|error| absent(&error)));
    let unit = unit(stand, "echo x > file; ln -s nowhere link").await;
    let missing = |error: &RuntimeError, path: &str| matches!(error, RuntimeError::NoSuchFile { path: named } if named == Path::new(path));
    for path in ["none", "none/below", "/no/such", "file/below"] {
        let error = read(stand, &unit, path).await.expect_err("it is not there");
        assert!(missing(&error, path), "{path}: {error:?}");
        let error = stat(stand, &unit, path).await.expect_err("it is not there");
        assert!(missing(&error, path), "{path}: {error:?}");
    }
    let error = read(stand, &unit, "link").await.expect_err("it leads nowhere");
    assert!(missing(&error, "link"), "{error:?}");
    for path in ["none/below", "/no/such/dir", "file/below"] {
        let error = copy(stand, &unit, path, b"x", &access(0o600)).await.expect_err("there is no directory");
        assert!(missing(&error, path), "{path}: {error:?}");
    }
}

pub(super) async fn what_is_no_file_is_refused(stand: &mut Stand<'_>) {
    let unit = unit(stand, "mkdir dir; echo x > dir/x; mkfifo pipe; ln -s loop loop").await;
    for (path, expected) in [("dir", FileKind::Directory), ("pipe", FileKind::Other)] {
        let error = read(stand, &unit, path).await.expect_err("it is no file");
        assert!(
            matches!(error, RuntimeError::NotAFile { kind, .. } if kind == expected),
            "{path}: {error:?}"
        );
        assert_eq!(stat(stand, &unit, path).await.expect("it is there").kind, expected);
    }
    let error = copy(stand, &unit, "dir", b"x", &access(0o600)).await.expect_err("a directory is in the way");
    assert!(matches!(error, RuntimeError::NotAFile { kind: FileKind::Directory, .. }), "{error:?}");
    assert_eq!(read(stand, &unit, "dir/x").await.expect("it is as it was"), "x\n");
    read(stand, &unit, "loop").await.expect_err("it leads to itself");
}

pub(super) async fn what_is_too_large_is_refused(stand: &mut Stand<'_>) {
    let unit =
        unit(stand, &format!("head -c {FILE_BYTES_MAX} /dev/zero > most; (cat most; echo) > more")).await;
    assert_eq!(read(stand, &unit, "most").await.expect("it is not too large").len(), FILE_BYTES_MAX);
    let is_refused = |error: &RuntimeError| matches!(error, RuntimeError::FileTooLarge { size, max, .. } if *size == FILE_BYTES_MAX as u64 + 1 && *max == FILE_BYTES_MAX);
    let error = read(stand, &unit, "more").await.expect_err("it is too large");
    assert!(is_refused(&error), "{error:?}");
    assert_eq!(stat(stand, &unit, "more").await.expect("it is there").size, FILE_BYTES_MAX as u64 + 1);
    let error = copy(stand, &unit, "new", &vec![0; FILE_BYTES_MAX + 1], &access(0o600)).await;
    assert!(error.is_err_and(|error| is_refused(&error)));
    stat(stand, &unit, "new").await.expect_err("nothing was written");
}
