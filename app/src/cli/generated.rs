//! The man pages and completions of `deploy/`, which are made of the command line.
//!
//! They are committed, so that neither the binary nor the package needs clap's generators.

use super::{Args, build};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use std::{env, fs, path::Path};

/// The sections of `app(1)` that the command line does not know of, in the language of man pages.
const SECTIONS: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
The command has done its work. \fBapp run\fR: the process was told to end, or another process has taken over.
.TP
\fB1\fR
Any other error, such as an address that cannot be listened on. \fBapp check \-\-request\fR: no rule takes the request.
\fBapp env\fR: no variable has the word.
.TP
\fB2\fR
The command line is wrong.
.TP
\fB{EXIT_CODE}\fR
The configuration is wrong: variables, files that they name, or sockets that were passed; with \fBapp check \-\-strict\fR warnings, too. All are on standard error.
.SH SIGNALS
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
The process drains: requests in flight finish, for as long as \%LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD. Before that clients are served
as usual for \%LINKERD2_PROXY_SHUTDOWN_LAME_DUCK_PERIOD. A second signal, a quarter of a second later or more, ends it at once.
.TP
\fBSIGHUP\fR
Files of certificates, keys and routes are read again, and the file of the access log is opened again. Variables are not read again.
.TP
\fBSIGUSR2\fR
Upgrades: the process starts the binary at its path, which may be another one now, with the same arguments and variables. The new process
gets the listeners. Once it is ready the old one drains, without the lame\-duck period. If the new one does not become ready within
\%LINKERD2_PROXY_UPGRADE_TIMEOUT, it is ended, and the old one goes on. Process 1, as in a container, refuses it.
.SH ENVIRONMENT
All settings are variables whose names start with LINKERD2_PROXY_. \fBapp env\fR lists each with its meaning, grammar and default, and
\fBapp check\fR shows the ones that are set. \%LISTEN_FDS, \%LISTEN_PID, \%LISTEN_FDNAMES and \%NOTIFY_SOCKET are
.BR systemd (1)'s.
.SH EXAMPLES
.TP
\fBLINKERD2_PROXY_OUTBOUND_ENDPOINTS=127.0.0.1:8080 app\fR
Proxies port 4140 of loopback to a service of HTTP/2 or gRPC on port 8080. The admin server is on port 4191 of loopback.
.TP
\fBapp env keep\-alive\fR
Lists the variables that are about keep\-alive.
.SH "SEE ALSO"
.BR systemd.service (5),
.BR systemd.socket (5)
"#;

/// All files, by their paths below `deploy`.
fn files() -> Vec<(String, String)> {
    let mut command = Args::command().version(build::VERSION);
    let completions =
        [(Shell::Bash, "app.bash"), (Shell::Zsh, "_app"), (Shell::Fish, "app.fish")].map(|(shell, name)| {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command.clone(), "app", &mut text);
            (format!("completions/{name}"), text)
        });
    // There is no page for `help`, which shows the others.
    command = command.disable_help_subcommand(true);
    command.build();
    let mut main = page(&command);
    main.extend_from_slice(SECTIONS.replace("{EXIT_CODE}", &app_env::EXIT_CODE.to_string()).as_bytes());
    let subcommands = command.get_subcommands().map(|subcommand| {
        let name = subcommand.get_display_name().expect("the command is built");
        (format!("man/{name}.1"), page(subcommand))
    });
    let pages = [("man/app.1".to_owned(), main)].into_iter().chain(subcommands);
    // clap ends some lines with spaces, and leaves the empty date of a page out, so that the source would be in its place.
    let clean = |text: Vec<u8>| {
        let text = String::from_utf8(text).expect("the parts are text").replace(" 1  \"", " 1 \"\" \"");
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    };
    pages.chain(completions).map(|(path, text)| (path, clean(text))).collect()
}

/// The man page of a command.
fn page(command: &Command) -> Vec<u8> {
    let man = Man::new(command.clone()).source(format!("app {}", build::VERSION)).manual("HTTP/2 and gRPC proxy");
    let mut text = Vec::new();
    let mut render = || {
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if command.has_subcommands() { man.render_subcommands_section(&mut text) } else { Ok(()) }
    };
    render().expect("memory can be written to");
    text
}

/// With `WRITE_GENERATED` set the files are written.
#[test]
fn man_pages_and_completions_are_those_of_the_command_line() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let files = files();
    for (path, text) in &files {
        let file = deploy.join(path);
        if env::var_os("WRITE_GENERATED").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
            continue;
        }
        // Not `assert_eq`: two texts of this size help nobody.
        assert!(
            fs::read_to_string(file).is_ok_and(|found| found == *text),
            "deploy/{path} is not up to date: run WRITE_GENERATED=1 cargo test --workspace --lib generated, and commit it"
        );
    }
    for folder in ["man", "completions"] {
        for entry in fs::read_dir(deploy.join(folder)).unwrap() {
            let path = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(files.iter().any(|(expected, _)| *expected == path), "deploy/{path} is of no command");
        }
    }
}

#[test]
fn each_variable_of_the_man_page_exists() {
    let named = SECTIONS.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<_> =
        named.filter(|name| name.len() > app_env::PREFIX.len() && name.starts_with(app_env::PREFIX)).collect();
    assert!(named.len() >= 3, "{named:?}");
    for name in named {
        assert!(app_env::variables().any(|variable| variable.name == name), "{name}");
    }
}
