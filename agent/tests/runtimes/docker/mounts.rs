//! Directories of the host that are made for those who mount them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use super::*;

fn mounting(source: &str) -> String {
    sleeper(&format!("  user: web:web\n  mounts: [{{source: {source}, target: /data}}]\n"))
}

fn shown(path: &Path) -> (u32, u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.permissions().mode() & 0o7777, meta.uid(), meta.gid())
}

impl Bench {
    /// How many helpers were made for mounts by now.
    async fn helpers(&self) -> usize {
        let all = self.told.all(&self.engine).await;
        all.iter().filter(|event| event.action == "create" && event.role() == "mounts").count()
    }

    async fn refused(&self, spec: &str) -> String {
        let error = self.apply(spec).await.unwrap_err();
        error.errors.values().next().map(|item| item.message.clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_k2_a_mounts_directory_is_made_where_it_ends_in_a_slash_and_only_there() {
    let bench = Bench::new("mounts").await;
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).display().to_string();
    bench.apply(&mounting(&path("shop/data/"))).await.unwrap();
    assert_eq!(shown(Path::new(&path("shop/data"))), (0o700, 33, 33));
    assert_eq!(shown(Path::new(&path("shop"))), (0o755, 0, 0));
    let unit = bench.containers();
    assert_eq!(unit.len(), 1, "F-K1: the helper has gone");
    bench.engine.docker(&["exec", &unit[0], "touch", "/data/x"]);
    assert!(Path::new(&path("shop/data/x")).exists());
    assert_eq!(bench.helpers().await, 1);

    // What is there stays as it is, also behind a link; without a slash nothing is made, and nothing looked at.
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(path("open"), path("link")).unwrap();
    bench.apply(&mounting(&path("link/"))).await.unwrap();
    assert_eq!(shown(Path::new(&path("open"))), (0o755, 0, 0));
    bench.apply(&mounting(&path("link/below/"))).await.unwrap();
    assert_eq!(shown(Path::new(&path("open/below"))), (0o700, 33, 33));
    let before = bench.helpers().await;
    let missing = bench.refused(&mounting(&path("missing"))).await;
    assert!(missing.contains("missing"), "{missing}");
    assert!(!Path::new(&path("missing")).exists());
    bench.apply(&mounting(&path("open"))).await.unwrap();
    assert_eq!(bench.helpers().await, before, "no stat call");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_k1_a_helper_goes_on_failure_and_what_a_crash_left_of_one_is_in_nobodys_way() {
    let bench = Bench::new("helper").await;
    let host = tempfile::tempdir().unwrap();
    let file = host.path().join("file");
    fs::write(&file, "theirs").unwrap();
    let refused = bench.refused(&mounting(&format!("{}/", file.display()))).await;
    let expected = format!("{} exists, and is no directory", file.display());
    assert!(refused.contains("spec.mounts[0].source") && refused.contains(&expected), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    assert_eq!(bench.containers(), Vec::<String>::new());
    let (ours, role) = (format!("dev.towline.instance={}", bench.instance), "dev.towline.role=mounts");
    let left = bench.engine.docker(&["create", "--label", &ours, "--label", role, IMAGE, "towline"]);
    bench.apply(&mounting(&format!("{}/", host.path().join("made").display()))).await.unwrap();
    assert_eq!(shown(&host.path().join("made")).0, 0o700);
    let containers = bench.containers();
    assert!(containers.len() == 1 && containers[0] != left, "{containers:?}");
    assert_eq!(bench.service().await.units.len(), 1, "a helper is no unit");
    bench.end().await;
}
