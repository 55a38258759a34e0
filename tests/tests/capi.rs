// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C API: its header, and its examples against the installed library.
//!
//! `HOST_IOMMU_WRITE_HEADER=1 cargo test --test capi header` writes the header anew.
//!
//! The harness is not Rust's own: it skips a test while it runs, where the machine lacks a tool.

use libtest_mimic::{Arguments, Trial};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A test by its name.
macro_rules! trial {
    ($test:ident) => {
        Trial::test(stringify!($test), || {
            $test().map_err(|error| error.to_string().into())
        })
    };
}

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn repo() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("..")
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> Outcome<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn run(command: &mut Command) -> Outcome<Output> {
    let output = command.output().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        format!("cannot run {program}, which Rust's linking and these tests need: {error}")
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Err(format!("{command:?} ended with {}:\n{out}\n{err}", output.status).into())
}

fn generated() -> Outcome<String> {
    let user = repo().join("user");
    let config = cbindgen::Config::from_file(user.join("cbindgen.toml"))?;
    // The modules below it are found by themselves: given too, each call would be declared twice.
    let builder = cbindgen::Builder::new()
        .with_config(config)
        .with_src(user.join("src/sys/c/mod.rs"));
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

fn header_is_what_the_sources_say() -> Outcome {
    let path = repo().join("user/include/host_iommu.h");
    let text = generated()?;
    if std::env::var_os("HOST_IOMMU_WRITE_HEADER").is_some() {
        fs::write(&path, &text)?;
    }
    let header = fs::read_to_string(&path)?;
    let lines = header.lines().zip(text.lines());
    let differs = lines.enumerate().find(|(_, (there, ours))| there != ours);
    assert!(
        header == text,
        "user/include/host_iommu.h is not what the sources say, from {differs:?} on"
    );
    Ok(())
}

/// How often each call is declared.
fn declared(text: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        // A declaration starts at the margin: its result, then the name up to the parenthesis.
        let Some((before, _)) = line
            .split_once('(')
            .filter(|_| !line.starts_with([' ', '/', '*']))
        else {
            continue;
        };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        if name.starts_with("host_iommu_") {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

fn header_declares_each_call_once() -> Outcome {
    let calls = declared(&generated()?);
    assert!(calls.len() > 50, "{calls:?}");
    let twice: Vec<_> = calls.iter().filter(|(_, &count)| count != 1).collect();
    assert!(twice.is_empty(), "declared more than once: {twice:?}");
    Ok(())
}

fn header_compiles_as_c_and_as_cpp() -> Outcome {
    let folder = folder("capi-header")?;
    let include = repo().join("user/include");
    let mut languages = vec![("cc", "c11", "c")];
    // Debian's package of the C compiler does not bring the other.
    if Command::new("c++").arg("--version").output().is_ok() {
        languages.push(("c++", "c++17", "cc"));
    }
    for (compiler, standard, ending) in languages {
        let source = folder.join(format!("header.{ending}"));
        fs::write(&source, "#include <host_iommu.h>\n")?;
        run(Command::new(compiler)
            .args(WARNINGS)
            .arg(format!("-std={standard}"))
            .arg("-fsyntax-only")
            .arg("-I")
            .arg(&include)
            .arg(&source))?;
    }
    Ok(())
}

/// The value of a variable or field of a pkg-config file, with the variables filled in.
fn field(pc: &str, name: &str) -> Option<String> {
    let line = pc.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix('=').or(rest.strip_prefix(':'))
    })?;
    let mut value = line.trim().to_owned();
    while let Some((before, rest)) = value.split_once("${") {
        let (variable, after) = rest.split_once('}')?;
        value = format!("{before}{}{after}", field(pc, variable)?);
    }
    Some(value)
}

/// No symbol but the header's leaves the library, whose soname has the interface's number.
fn exports_are_what_the_header_declares(library: &Path) -> Outcome {
    let text = generated()?;
    let symbols = run(Command::new("nm")
        .args(["-D", "--defined-only", "-j"])
        .arg(library))?;
    let symbols = String::from_utf8(symbols.stdout)?;
    let exported: BTreeSet<String> = symbols.lines().map(str::to_owned).collect();
    assert_eq!(exported, declared(&text).into_keys().collect());
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix("#define HOST_IOMMU_API_VERSION "))
        .ok_or("the header has no version")?;
    let dynamic = run(Command::new("readelf").arg("-d").arg(library))?;
    let soname = format!("[libhost_iommu.so.{number}]");
    let dynamic = String::from_utf8(dynamic.stdout)?;
    assert!(dynamic.contains(&soname), "{dynamic}");
    Ok(())
}

/// The library as `make install-capi` puts it into a folder of the test's own.
struct Installed {
    folder: PathBuf,
    pc: String,
}

impl Installed {
    fn new(name: &str) -> Outcome<Self> {
        let folder = folder(name)?;
        let prefix = folder.join("usr");
        // Both tests build it: the second finds it built.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-build");
        run(Command::new("make")
            .current_dir(repo())
            .arg("install-capi")
            .arg(format!("PREFIX={}", prefix.display()))
            .arg(format!("CARGO={}", env!("CARGO")))
            .env("CARGO_TARGET_DIR", target))?;
        let pc = fs::read_to_string(prefix.join("lib/pkgconfig/host_iommu.pc"))?;
        Ok(Self { folder, pc })
    }

    fn library(&self) -> PathBuf {
        self.folder.join("usr/lib")
    }

    fn words(&self, name: &str) -> Outcome<Vec<String>> {
        let value = field(&self.pc, name).ok_or(format!("no {name} in the pkg-config file"))?;
        Ok(value.split_whitespace().map(str::to_owned).collect())
    }

    fn compile(
        &self,
        source: &Path,
        name: &str,
        flags: &[&str],
        libs: &[String],
    ) -> Outcome<PathBuf> {
        let program = self.folder.join(name);
        run(Command::new("cc")
            .args(WARNINGS)
            .args(["-std=gnu11", "-O1"])
            .args(flags)
            .args(self.words("Cflags")?)
            .arg(source)
            .args(libs)
            .arg("-o")
            .arg(&program))?;
        Ok(program)
    }

    /// A program linked with the shared library.
    fn shared(&self, source: &Path, name: &str, flags: &[&str]) -> Outcome<PathBuf> {
        self.compile(source, name, flags, &self.words("Libs")?)
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Outcome<String> {
        let output = run(Command::new(program)
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.library()))?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The examples, and how many steps each tells of.
const EXAMPLES: [(&str, usize); 3] = [("demo", 13), ("vtd", 7), ("snapshot", 7)];

fn example(name: &str) -> PathBuf {
    repo().join("user/examples/c").join(format!("{name}.c"))
}

fn assert_steps(text: &str, last: usize) {
    let steps = text.lines().filter_map(|line| line.split('.').next());
    let steps: Vec<_> = steps.map(str::trim).collect();
    let wanted: Vec<String> = (1..=last).map(|step| step.to_string()).collect();
    assert_eq!(steps, wanted, "{text}");
}

fn examples_run_against_the_installed_library() -> Outcome {
    let installed = Installed::new("capi-example")?;
    exports_are_what_the_header_declares(&installed.library().join("libhost_iommu.so"))?;
    for (name, last) in EXAMPLES {
        let program = installed.shared(&example(name), name, &[])?;
        assert_steps(&installed.run(&program, &["soft"])?, last);
    }
    let archive = installed.library().join("libhost_iommu.a");
    let mut libs = vec![archive.display().to_string()];
    libs.extend(installed.words("Libs.private")?);
    let linked = installed.compile(&example("demo"), "static", &[], &libs)?;
    assert_steps(&installed.run(&linked, &["soft"])?, 13);
    Ok(())
}

const SANITIZERS: [&str; 3] = [
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
];

/// A program that makes each call with nothing but NULL and zeroes. What gives an int fails.
fn calls_with_nothing(header: &str) -> String {
    let comment = |line: &str| {
        let marks = ["//", "/*", "*", "#"];
        marks.iter().any(|mark| line.trim_start().starts_with(mark))
    };
    let code = header.lines().filter(|line| !comment(line));
    let code = code.collect::<Vec<_>>().join(" ");
    let mut program = String::from("#include <stdlib.h>\n#include <host_iommu.h>\n");
    program.push_str("int main(void)\n{\n");
    for declaration in code.split(';') {
        let Some((call, arguments)) = declaration.split_once('(') else {
            continue;
        };
        let Some((before, name)) = call.rsplit_once("host_iommu_") else {
            continue;
        };
        let nothing = |argument: &str| match argument.trim().rsplit_once(' ') {
            _ if argument.contains('*') => "NULL".to_owned(),
            Some((kind, _)) if kind.starts_with("struct") => format!("({kind}){{0}}"),
            _ => "0".to_owned(),
        };
        let arguments = arguments.trim_end_matches(')');
        let arguments: Vec<String> = match arguments {
            "void" => Vec::new(),
            some => some.split(',').map(nothing).collect(),
        };
        let call = format!("host_iommu_{name}({})", arguments.join(", "));
        program.push_str(&if before.trim_end().ends_with("int") {
            format!("    if ({call} >= 0)\n        abort();\n")
        } else {
            format!("    (void){call};\n")
        });
    }
    program.push_str("    return 0;\n}\n");
    program
}

/// The library is told of more room than there is.
const PLANTED: &str = r#"
#include <stdlib.h>
#include <host_iommu.h>
int main(void)
{
    struct host_iommu *context;
    struct host_iommu_range *room = malloc(1);
    size_t count;
    return host_iommu_open_soft(&context) || host_iommu_get_ranges(context, room, 1, &count);
}
"#;

/// Whether the C compiler has the sanitizers, and what it makes with them runs.
fn has_sanitizers() -> Outcome {
    let folder = folder("capi-sanitizers")?;
    let source = folder.join("empty.c");
    fs::write(&source, "int main(void)\n{\n    return 0;\n}\n")?;
    let empty = folder.join("empty");
    let mut compiler = Command::new("cc");
    run(compiler.args(SANITIZERS).arg(&source).arg("-o").arg(&empty))?;
    run(&mut Command::new(&empty))?;
    Ok(())
}

fn sanitizers_find_nothing_in_the_examples_and_in_calls_with_nothing() -> Outcome {
    let installed = Installed::new("capi-sanitized")?;
    for (name, last) in EXAMPLES {
        let program = installed.shared(&example(name), name, &SANITIZERS)?;
        assert_steps(&installed.run(&program, &["soft"])?, last);
    }
    let text = generated()?;
    let program = calls_with_nothing(&text);
    let made = |line: &&str| line.starts_with("    if (") || line.starts_with("    (void)");
    let calls = program.lines().filter(made).count();
    assert_eq!(calls, declared(&text).len(), "{program}");
    let source = installed.folder.join("nothing.c");
    fs::write(&source, program)?;
    let program = installed.shared(&source, "nothing", &SANITIZERS)?;
    installed.run(&program, &[])?;

    let source = installed.folder.join("planted.c");
    fs::write(&source, PLANTED)?;
    let program = installed.shared(&source, "planted", &SANITIZERS)?;
    match installed.run(&program, &[]) {
        Err(error) if error.to_string().contains("heap-buffer-overflow") => Ok(()),
        other => Err(format!("what was planted is not found: {other:?}").into()),
    }
}

fn main() -> ExitCode {
    let missing = has_sanitizers().err();
    if let Some(error) = &missing {
        eprintln!(
            "skipped: the C compiler has no address and undefined-behaviour sanitizers: {error}"
        );
    }
    let sanitizers = trial!(sanitizers_find_nothing_in_the_examples_and_in_calls_with_nothing);
    let trials = vec![
        trial!(header_is_what_the_sources_say),
        trial!(header_declares_each_call_once),
        trial!(header_compiles_as_c_and_as_cpp),
        trial!(examples_run_against_the_installed_library),
        sanitizers.with_ignored_flag(missing.is_some()),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
