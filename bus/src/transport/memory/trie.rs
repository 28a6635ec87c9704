//! Patterns by their tokens, so that a publish costs the depth of its subject, not the number of subscriptions: ten
//! thousand agents hold thirty thousand patterns.

use std::collections::{HashMap, HashSet};

#[derive(Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Subscriptions whose pattern ends here.
    here: HashSet<u64>,
    children: HashMap<Box<str>, Node>,
}

impl Trie {
    pub(super) fn insert(&mut self, pattern: &str, id: u64) {
        let mut node = &mut self.root;
        for token in pattern.split('.') {
            node = node.children.entry(token.into()).or_default();
        }
        node.here.insert(id);
    }

    pub(super) fn remove(&mut self, pattern: &str, id: u64) {
        let tokens: Vec<&str> = pattern.split('.').collect();
        remove_below(&mut self.root, &tokens, id);
    }

    /// The subscriptions whose pattern matches a subject, each once.
    pub(super) fn matching(&self, subject: &str) -> Vec<u64> {
        let tokens: Vec<&str> = subject.split('.').collect();
        let mut found = Vec::new();
        collect(&self.root, &tokens, &mut found);
        found.sort_unstable();
        found
    }
}

fn collect(node: &Node, tokens: &[&str], found: &mut Vec<u64>) {
    let Some((token, rest)) = tokens.split_first() else {
        found.extend(&node.here);
        return;
    };
    if let Some(tail) = node.children.get(">") {
        found.extend(&tail.here);
    }
    // A published `*` is a legal byte in NATS; it must not be taken for the wildcard twice.
    for key in [Some("*"), Some(*token).filter(|token| !matches!(*token, "*" | ">"))].into_iter().flatten() {
        if let Some(child) = node.children.get(key) {
            collect(child, rest, found);
        }
    }
}

/// Removes a subscription, and the nodes that nobody needs any more.
fn remove_below(node: &mut Node, tokens: &[&str], id: u64) {
    let Some((token, rest)) = tokens.split_first() else {
        node.here.remove(&id);
        return;
    };
    if let Some(child) = node.children.get_mut(*token) {
        remove_below(child, rest, id);
        if child.here.is_empty() && child.children.is_empty() {
            node.children.remove(*token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_nats() {
        let mut trie = Trie::default();
        for (id, pattern) in ["a.b", "a.*", "a.>", "*.b", ">", "a.b.c"].into_iter().enumerate() {
            trie.insert(pattern, id as u64);
        }
        assert_eq!(trie.matching("a.b"), [0, 1, 2, 3, 4]);
        assert_eq!(trie.matching("a.b.c"), [2, 4, 5]);
        assert_eq!(trie.matching("x"), [4]);
    }

    #[test]
    fn removal_leaves_nothing_behind() {
        let mut trie = Trie::default();
        trie.insert("a.b.c", 1);
        trie.insert("a.b", 2);
        trie.remove("a.b.c", 1);
        assert_eq!(trie.matching("a.b"), [2]);
        trie.remove("a.b", 2);
        assert!(trie.root.children.is_empty());
    }
}
