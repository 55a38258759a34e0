// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C API: its header, and its examples against the installed library.
//!
//! `HOST_IOMMU_WRITE_HEADER=1 cargo test --test capi header` writes the header anew.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

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

#[test]
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

#[test]
fn header_declares_each_call_once() -> Outcome {
    let text = generated()?;
    let mut calls = std::collections::BTreeMap::new();
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
            *calls.entry(name).or_insert(0) += 1;
        }
    }
    assert!(calls.len() > 50, "{calls:?}");
    let twice: Vec<_> = calls.iter().filter(|(_, &count)| count != 1).collect();
    assert!(twice.is_empty(), "declared more than once: {twice:?}");
    Ok(())
}

#[test]
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

#[test]
fn examples_run_against_the_installed_library() -> Outcome {
    let folder = folder("capi-example")?;
    let prefix = folder.join("usr");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-build");
    run(Command::new("make")
        .current_dir(repo())
        .arg("install-capi")
        .arg(format!("PREFIX={}", prefix.display()))
        .arg(format!("CARGO={}", env!("CARGO")))
        .env("CARGO_TARGET_DIR", target))?;

    let pc = fs::read_to_string(prefix.join("lib/pkgconfig/host_iommu.pc"))?;
    let words = |name: &str| -> Outcome<Vec<String>> {
        let value = field(&pc, name).ok_or(format!("no {name} in the pkg-config file"))?;
        Ok(value.split_whitespace().map(str::to_owned).collect())
    };
    let compile = |source: &str, name: &str, libs: &[String]| -> Outcome<PathBuf> {
        let source = repo().join("user/examples/c").join(source);
        let program = folder.join(name);
        run(Command::new("cc")
            .args(WARNINGS)
            .args(["-std=gnu11", "-O1"])
            .args(words("Cflags")?)
            .arg(source)
            .args(libs)
            .arg("-o")
            .arg(&program))?;
        Ok(program)
    };
    let shared = compile("demo.c", "shared", &words("Libs")?)?;
    let unit = compile("vtd.c", "unit", &words("Libs")?)?;
    let archive = prefix.join("lib/libhost_iommu.a").display().to_string();
    let mut libs = vec![archive];
    libs.extend(words("Libs.private")?);
    let linked = compile("demo.c", "static", &libs)?;

    for (program, last) in [(shared, 13), (linked, 13), (unit, 7)] {
        let library = prefix.join("lib");
        let output = run(Command::new(&program)
            .arg("soft")
            .env("LD_LIBRARY_PATH", library))?;
        let text = String::from_utf8(output.stdout)?;
        let steps = text.lines().map(|line| line.split('.').next());
        let steps: Vec<_> = steps.flatten().map(str::trim).collect();
        let wanted: Vec<String> = (1..=last).map(|step: u32| step.to_string()).collect();
        assert_eq!(steps, wanted, "{text}");
    }
    Ok(())
}
