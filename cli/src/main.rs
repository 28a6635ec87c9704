//! `towline`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    towline_cli::main()
}
