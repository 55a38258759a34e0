// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Debian packages as a new user has them: built twice, installed into a fresh Debian 13, booted
//! on the emulated VT-d, used, purged.

use super::{console_file, keep_console, kernel_side, show, Ready};
use crate::boot::{Firmware, Hardware, Machine};
use crate::cache::sha256_of;
use crate::command::{output, tail, Log};
use crate::deb;
use crate::judge::{console, ktap, Totals};
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::fresh_debian;
use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The name of the part, of its logs.
const NAME: &str = "install";

/// A boot of systemd on an emulated CPU, and what is done there.
const LIMIT: Duration = Duration::from_secs(1200);

/// For systemd: on an emulated CPU things take longer than its 90 seconds. The tree is not of another
/// version than its /etc. The virtio console is the test's.
const WORDS: &str = "systemd.default_timeout_start_sec=900 \
    systemd.default_device_timeout_sec=900 systemd.condition_needs_update=no \
    systemd.mask=serial-getty@hvc0.service";

/// apt's part, as docs/install.md has it, with what apt finds for it; DKMS builds for the kernel in the tree.
/// `$1`: the kernel's release.
const INSTALL: &str = r#"
cd /root
cp /packages/*.deb .
rm -f ./*-dbgsym_*.deb
apt-get update
apt-get install -y --no-install-recommends ./*.deb
apt-get clean
modinfo -k "$1" vfio_iommu_ioasid

# A kernel that something is missing for, and one of another series, are passed over, with the reason.
source=$(ls /usr/src/linux-source-*.tar.xz)
mv "$source" /root
module=$(ls /usr/src | sed -n 's,^vfio-iommu-ioasid-,vfio-iommu-ioasid/,p')
dkms uninstall "$module" -k "$1"
dkms unbuild "$module" -k "$1"
dkms autoinstall -k "$1" > said 2>&1
cat said
grep -q 'apt-get install linux-source-' said
mkdir -p /lib/modules/9.9.9-amd64/build/include
dkms autoinstall -k 9.9.9-amd64 > said 2>&1
cat said
grep -q 'not for Linux 9.9.9-amd64' said
rm -r /lib/modules/9.9.9-amd64
# With its source it has its module again, from the metadata that was kept.
mv "$(basename "$source")" /usr/src
dkms autoinstall -k "$1"
modinfo -k "$1" vfio_iommu_ioasid

cat > /etc/systemd/system/new-user.service << 'END'
[Unit]
After=systemd-modules-load.service systemd-udev-trigger.service
[Service]
ExecStart=/bin/sh /root/new-user
[Install]
WantedBy=multi-user.target
END
systemctl enable new-user.service
# Its unit has a limit of its own, of 90 seconds.
mkdir -p /etc/systemd/system/systemd-modules-load.service.d
printf '[Service]\nTimeoutSec=900\n' > /etc/systemd/system/systemd-modules-load.service.d/slow.conf
"#;

/// A disk of the tree, its initramfs, and firmware that has DKMS's key among those it trusts.
/// `$1`: the kernel's release.
const DISK: &str = r#"
cd /build
cp "tree/boot/initrd.img-$1" image
cp /usr/share/OVMF/OVMF_CODE_4M.fd firmware
openssl x509 -inform DER -in tree/var/lib/dkms/mok.pub -out key.pem
virt-fw-vars --input /usr/share/OVMF/OVMF_VARS_4M.fd --output firmware-variables \
    --add-db 8be4df61-93ca-11d2-aa0d-00e098032b8c key.pem
mke2fs -q -t ext4 -d tree disk 8G
"#;

/// What is done in each boot of the same disk, the kernel's words for it, and the firmware.
const BOOTS: [(&str, &str, Firmware); 3] = [
    ("refused", "module.sig_enforce=1", Firmware::Bios),
    ("trusted", "module.sig_enforce=1", Firmware::Uefi),
    ("used", "", Firmware::Bios),
];

impl Ready {
    /// Builds, installs, boots, uses and purges the packages.
    pub(super) fn installed(&self, setup: &Setup) -> Result<Totals> {
        let mut report = ktap::Report::default();
        let run = setup.cache.run_folder()?;
        let (first, second) = (run.path().join("first"), run.path().join("second"));
        for folder in [&first, &second] {
            fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let made = deb::build(setup, &first, "/build/here")?;
        let again = deb::build(setup, &second, "/build/a/longer/way/to/there")?;
        report.add(same(&made, &again)?);
        fs::remove_dir_all(&second).context("cannot remove the second build")?;

        let log = Log::create(setup.cache.log(NAME))?;
        let progress = Progress::start(NAME, "the packages in a fresh Debian (15 minutes)");
        let (_, packages, kernel, _) = kernel_side(setup)?;
        let fresh = fresh_debian::make(setup, &packages)?;
        let tree = run.path().join("tree");
        progress.say("installing the packages");
        output(
            "copying the fresh Debian",
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .args([&fresh, &tree]),
        )?;
        fs::copy(
            setup.repo.join("qemu-boot/guest/new-user"),
            tree.join("root/new-user"),
        )
        .context("cannot copy the user's script")?;
        let binds: [(&Path, &str); 1] = [(&made, "/packages")];
        log.run(
            "installing the packages",
            &mut Root::new(tree.clone()).script(&binds, INSTALL, &[kernel.release()]),
            &progress,
        )?;
        let tools = deb::root(setup)?;
        log.run(
            "making the disk",
            &mut tools.script(&[(run.path(), BUILD)], DISK, &[kernel.release()]),
            &progress,
        )?;
        for (what, words, firmware) in BOOTS {
            progress.say(&format!("booting: {what}"));
            report.add(self.new_user(setup, run.path(), what, words, firmware)?);
        }
        progress.done();
        show(
            NAME,
            &report,
            &setup.cache.log(NAME),
            &console_file(setup, NAME),
        );
        Ok(report.totals)
    }

    /// A boot of the disk.
    fn new_user(
        &self,
        setup: &Setup,
        run: &Path,
        what: &str,
        words: &str,
        firmware: Firmware,
    ) -> Result<ktap::Report> {
        let name = format!("{NAME}-{what}");
        let path = setup.cache.log(&name);
        let mut log = fs::File::create(&path).context("cannot write the log")?;
        let mut ktap = ktap::Parser::default();
        let machine = Machine {
            root: &self.root,
            qemu: &self.qemu,
            kernel: &self.kernel.image,
            run,
            hardware: Hardware {
                disk: true,
                firmware,
                ..Hardware::USUAL
            },
        };
        let words = format!("root=/dev/vda rw new-user={what} {words} {WORDS}");
        let ended = machine.run(&words, LIMIT, |line| {
            ktap.line(line);
            // A log that cannot be written must not end the run.
            drop(writeln!(log, "{line}"));
        })?;
        keep_console(setup, &machine, &name)?;
        let mut report = ktap.finish();
        if ended.timed_out {
            report.fail(format!(
                "stopped after {LIMIT:?}; it ends:\n{}",
                tail(&path)
            ));
        }
        for bad in console::bad_lines(&ended.console) {
            report.fail(format!("the kernel complained: {bad}"));
        }
        Ok(report)
    }
}

/// Whether two builds gave the same files; a test for each package.
fn same(first: &Path, second: &Path) -> Result<ktap::Report> {
    let mut report = ktap::Report::default();
    for file in deb::entries(first)? {
        if !deb::is_package(&file) {
            continue;
        }
        let name = file.file_name().unwrap_or_default();
        let other = second.join(name);
        if other.exists() && sha256_of(&file)? == sha256_of(&other)? {
            report.totals.passed += 1;
        } else {
            report.fail(format!(
                "{}: built twice, and not the same",
                name.to_string_lossy()
            ));
        }
    }
    Ok(report)
}
