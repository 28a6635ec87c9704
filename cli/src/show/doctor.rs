//! Leftovers as people read them. Pure.

use comfy_table::Cell;

use super::tables::{Style, plain, render};
use crate::command::Findings;
use towline_agent::doctor::Unseen;

/// What was found, one a row, and what cannot be told and was not looked at below.
pub(crate) fn doctor_text(findings: &Findings, style: Style) -> String {
    let Findings { leftovers, untold, unseen } = findings;
    let tried = leftovers.iter().any(|finding| finding.removed || finding.error.is_some());
    let mut text = if leftovers.is_empty() {
        "nothing is left that nobody has\n".to_owned()
    } else {
        let mut columns = vec!["KIND", "NAME", "INSTANCE", "PARTS", "WHY"];
        let elsewhere = leftovers.iter().any(|finding| finding.leftover.host.is_some());
        columns.extend(elsewhere.then_some("HOST"));
        columns.extend(tried.then_some("DONE"));
        let mut table = style.table(&columns);
        for finding in leftovers {
            let leftover = &finding.leftover;
            let done = match (&finding.error, finding.removed) {
                (Some(error), _) => error.as_str(),
                (None, true) => "removed",
                (None, false) => "",
            };
            let mut row = vec![
                Cell::new(leftover.kind.word()),
                Cell::new(plain(&leftover.name)),
                Cell::new(plain(leftover.instance.as_deref().unwrap_or("-"))),
                Cell::new(leftover.parts.len()),
                Cell::new(plain(&leftover.why)),
            ];
            let host = leftover.host.as_deref().unwrap_or("-");
            row.extend(elsewhere.then(|| Cell::new(plain(host))));
            row.extend(tried.then(|| Cell::new(plain(done))));
            table.add_row(row);
        }
        render(&table)
    };
    if !untold.is_empty() {
        text.push_str("\nleft alone:\n");
        text.extend(untold.iter().map(|line| format!("  {}\n", plain(line))));
    }
    if !unseen.is_empty() {
        text.push_str("\nnot looked at:\n");
        text.extend(unseen.iter().map(|Unseen { host, why }| format!("  {}: {}\n", plain(host), plain(why))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Finding;
    use towline_agent::doctor::{Kind, Leftover};

    #[test]
    fn leftovers_are_rows() {
        let leftover = |name: &str, instance: Option<&str>| Leftover {
            kind: Kind::Unit,
            name: name.to_owned(),
            instance: instance.map(str::to_owned),
            host: None,
            why: "its data directory /x is gone".to_owned(),
            parts: vec!["process 1".to_owned(), "process 2".to_owned()],
        };
        let found = |leftover, removed| Finding { leftover, removed, error: None };
        let mut findings = Findings {
            leftovers: vec![found(leftover("web-1", Some("default/local")), false)],
            untold: vec!["unit web-2: its directory is not known".to_owned()],
            unseen: Vec::new(),
        };
        let plain = Style { colour: false };
        assert_eq!(
            doctor_text(&findings, plain),
            "KIND  NAME   INSTANCE       PARTS  WHY\n\
             unit  web-1  default/local  2      its data directory /x is gone\n\
             \nleft alone:\n  unit web-2: its directory is not known\n"
        );
        findings.leftovers = vec![found(leftover("web-1", None), true)];
        findings.untold.clear();
        assert!(doctor_text(&findings, plain).ends_with("its data directory /x is gone  removed\n"));
        findings.leftovers[0].leftover.host = Some("edge-1".to_owned());
        findings.unseen = vec![Unseen { host: "edge-2".to_owned(), why: "it does not answer".to_owned() }];
        assert_eq!(
            doctor_text(&findings, plain),
            "KIND  NAME   INSTANCE  PARTS  WHY                            HOST    DONE\n\
             unit  web-1  -         2      its data directory /x is gone  edge-1  removed\n\
             \nnot looked at:\n  edge-2: it does not answer\n"
        );
        findings.unseen.clear();
        findings.leftovers.clear();
        assert_eq!(doctor_text(&findings, plain), "nothing is left that nobody has\n");
    }
}
