//! The one bearer token of this hub: given in a file, or made and kept for its owner alone.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::limits;

/// Why there is no token. The hub does not start without one.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file could not be read.
    #[error("the token file `{}` cannot be read: check --token-file and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds no token.
    #[error(
        "the token file `{}` holds no token ({reason}): it should hold one line of at least 16 visible ASCII characters",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: &'static str,
    },
    /// A new token could not be kept.
    #[error("a new token cannot be written to `{}`", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The secret that callers of the API show.
pub struct Token {
    secret: Vec<u8>,
    path: PathBuf,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Token {
    /// Reads the operator's token.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        if mode & 0o044 != 0 {
            tracing::warn!(path = %path.display(), "others can read the token file; `chmod 600` keeps them out");
        }
        let mut text = Vec::new();
        file.take(limits::TOKEN_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
        let secret = text.trim_ascii().to_vec();
        let malformed = |reason| Err(TokenError::Malformed { path: path.to_owned(), reason });
        match secret.len() {
            0 => malformed("it is empty"),
            _ if u64::try_from(text.len()).is_ok_and(|len| len > limits::TOKEN_BYTES_MAX) => {
                malformed("it is longer than 4096 bytes")
            }
            1..16 => malformed("it is shorter than 16 characters"),
            _ if !secret.iter().all(u8::is_ascii_graphic) => {
                malformed("it has spaces, line breaks or characters beyond ASCII inside")
            }
            _ => Ok(Self { secret, path: path.to_owned() }),
        }
    }

    /// Reads the hub's own token, and makes one of 256 random bits if there is none.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn read_or_make(path: &Path) -> Result<Self, TokenError> {
        match make(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(TokenError::NotWritable { path: path.to_owned(), source: error })
            }
            Ok(()) | Err(_) => Self::read(path),
        }
    }

    /// Where it is kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the token. Takes as long for a near miss as for a far one.
    #[must_use]
    pub fn admits(&self, shown: &[u8]) -> bool {
        // The length is no secret; what is in it is.
        if shown.len() != self.secret.len() {
            return false;
        }
        let different = self.secret.iter().zip(shown).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
        black_box(different) == 0
    }
}

/// Written beside its place and moved there, so that a crash leaves a whole token or none.
fn make(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", BASE64_URL_SAFE_NO_PAD.encode(random))?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::read_or_make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(text.trim()).unwrap().len(), 32);
        let again = Token::read_or_make(&path).unwrap();
        assert!(again.admits(text.trim().as_bytes()));
        assert!(!again.admits(text.as_bytes()), "the line end is not part of it");
        assert!(!again.admits(b""));
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(Token::read(&path), Err(TokenError::Unreadable { .. })));
        for bad in ["", "\n", "short", "two words are not one token", "né-accepté-non-plus-jamais"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Token::read(&path), Err(TokenError::Malformed { .. })), "{bad:?}");
        }
        std::fs::write(&path, "a".repeat(5_000)).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Malformed { .. })));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hunter2-hunter2-hunter2\n").unwrap();
        assert!(!format!("{:?}", Token::read(&path).unwrap()).contains("hunter2"));
    }
}
