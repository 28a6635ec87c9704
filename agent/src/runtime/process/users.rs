//! Users and groups by name or number, from the host's own files (no name service: the binary may be static).

use std::{fs, path::PathBuf};

use super::error::RuntimeError;
use crate::shim::RunAs;

/// A resolved `user[:group]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) run_as: RunAs,
    pub(super) home: Option<PathBuf>,
}

/// Resolves `spec.user`.
pub(super) fn account(user: &str) -> Result<Account, RuntimeError> {
    resolve(user, &read("/etc/passwd"), &read("/etc/group"))
}

/// The uid that `name` stands for.
pub(super) fn uid(field: &str, name: &str) -> Result<u32, RuntimeError> {
    let found = name.parse().ok().or_else(|| number(&read("/etc/passwd"), name));
    found.ok_or_else(|| missing(field, "user", name))
}

/// The gid that `name` stands for.
pub(super) fn gid(field: &str, name: &str) -> Result<u32, RuntimeError> {
    let found = name.parse().ok().or_else(|| number(&read("/etc/group"), name));
    found.ok_or_else(|| missing(field, "group", name))
}

fn read(path: &str) -> String {
    // A host without these files has no names, only numbers.
    fs::read(path).map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into_owned())
}

fn missing(field: &str, what: &'static str, name: &str) -> RuntimeError {
    RuntimeError::NoSuchUser { field: field.to_owned(), what, name: name.to_owned() }
}

fn resolve(user: &str, passwd: &str, groups: &str) -> Result<Account, RuntimeError> {
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let as_number: Option<u32> = name.parse().ok();
    let entry = entries(passwd).find(|fields| match as_number {
        Some(number) => field(fields, 2).parse() == Ok(number),
        None => field(fields, 0) == name,
    });
    let uid = as_number.or_else(|| entry.as_ref().and_then(|fields| field(fields, 2).parse().ok()));
    let uid = uid.ok_or_else(|| missing("spec.user", "user", name))?;
    let own_group = entry.as_ref().and_then(|fields| field(fields, 3).parse().ok());
    let gid = match group {
        Some(group) => group
            .parse()
            .ok()
            .or_else(|| number(groups, group))
            .ok_or_else(|| missing("spec.user", "group", group))?,
        // A bare number without an entry: the group of the same number is what container runtimes take, too.
        None => own_group.unwrap_or(uid),
    };
    let login = entry.as_ref().map(|fields| field(fields, 0));
    let member = |fields: &Vec<&str>| {
        login.is_some_and(|login| field(fields, 3).split(',').any(|member| member == login))
    };
    let mut supplementary: Vec<u32> =
        entries(groups).filter(member).filter_map(|fields| field(&fields, 2).parse().ok()).collect();
    if !supplementary.contains(&gid) {
        supplementary.insert(0, gid);
    }
    let home = entry.as_ref().map(|fields| PathBuf::from(field(fields, 5))).filter(|home| home.is_absolute());
    Ok(Account { run_as: RunAs { uid, gid, groups: supplementary }, home })
}

/// The numbers of a `user[:group]` by these files; none if they do not know them.
pub(crate) fn ids(user: &str, passwd: &str, groups: &str) -> Option<(u32, u32)> {
    resolve(user, passwd, groups).ok().map(|Account { run_as, .. }| (run_as.uid, run_as.gid))
}

fn entries(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect())
}

fn field<'a>(fields: &[&'a str], index: usize) -> &'a str {
    fields.get(index).copied().unwrap_or_default()
}

/// Third field of the entry called `name`: the number, in both files.
fn number(file: &str, name: &str) -> Option<u32> {
    entries(file).find(|fields| field(fields, 0) == name).and_then(|fields| field(&fields, 2).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/home/web:/bin/sh\nbad line\n";
        let groups = "root:x:0:\nweb:x:1001:\nlogs:x:50:web,other\n";
        let find = |user| {
            resolve(user, passwd, groups)
                .map(|account| (account.run_as, account.home))
                .map_err(|e| e.to_string())
        };
        let web = |gid, groups: &[u32]| RunAs { uid: 1000, gid, groups: groups.to_vec() };
        let home = Some(PathBuf::from("/home/web"));
        assert_eq!(find("web"), Ok((web(1001, &[1001, 50]), home.clone())));
        assert_eq!(find("1000"), Ok((web(1001, &[1001, 50]), home.clone())));
        assert_eq!(find("web:logs"), Ok((web(50, &[50]), home.clone())));
        assert_eq!(find("web:0"), Ok((web(0, &[0, 50]), home)));
        assert_eq!(find("4242"), Ok((RunAs { uid: 4242, gid: 4242, groups: vec![4242] }, None)));
        assert_eq!(
            find("nobody-here"),
            Err("spec.user: there is no user \"nobody-here\" on this host".to_owned())
        );
        assert_eq!(find("web:none"), Err("spec.user: there is no group \"none\" on this host".to_owned()));
    }
}
