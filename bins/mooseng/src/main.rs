//! The `mooseng` command line.

fn main() -> std::process::ExitCode {
    mooseng_cli::main()
}
