// Command deb makes the Debian package of a built bin/holdfast.
//
// Invariants: it is a module of its own, so that nothing of what packs is in the
// program; the package holds what `holdfast install` writes, in the places where
// Debian wants it; the same program gives the same package.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

func main() {
	binary := flag.String("binary", "bin/holdfast", "the program")
	arch := flag.String("arch", "amd64", "amd64 or arm64")
	version := flag.String("version", "", "the program's version")
	epoch := flag.Int64("epoch", 0, "the time of all files, in seconds since 1970")
	out := flag.String("out", "bin", "the folder of the package")
	flag.Parse()
	path, err := pack(*binary, *arch, *version, time.Unix(*epoch, 0).UTC(), *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "deb:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// The unit of the package names the place of packaged programs.
func unit() ([]byte, error) {
	b, err := os.ReadFile("appliance/holdfast.service")
	if err != nil {
		return nil, fmt.Errorf("%w; run it in the repository's top folder", err)
	}
	return []byte(strings.ReplaceAll(string(b), "/usr/local/bin/", "/usr/bin/")), nil
}

func pack(binary, arch, version string, at time.Time, dir string) (string, error) {
	// What stands before a release sorts before it in Debian, too.
	version = strings.Replace(version, "-", "~", 1)
	work, err := os.MkdirTemp("", "holdfast-deb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	service, err := unit()
	if err != nil {
		return "", err
	}
	made := map[string]string{
		"holdfast.service": string(service),
		"sysusers.conf":    "u holdfast - \"Holdfast\" /var/lib/holdfast -\n",
		"preinst":          preinst,
		"postinst":         postinst,
		"prerm":            prerm,
		"postrm":           postrm,
	}
	for name, text := range made {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	file := func(from, to, kind string, mode os.FileMode) *files.Content {
		return &files.Content{Source: from, Destination: to, Type: kind, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: mode, MTime: at}}
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "holdfast", Arch: arch, Platform: "linux", Version: version, VersionSchema: "none",
		Section: "net", Priority: "optional", Maintainer: "Holdfast <holdfast@localhost>", MTime: at,
		Description: "chat, calls and single sign-on in one program\n A Matrix homeserver, an OpenID provider, a relay for calls and a web client,\n on one SQLite file. It needs no other service and no Internet.",
		License:     "EUPL-1.2",
		Overridables: nfpm.Overridables{
			Depends: []string{"init-system-helpers", "systemd"},
			Contents: files.Contents{
				file(binary, "/usr/bin/holdfast", files.TypeFile, 0o755),
				file(filepath.Join(work, "holdfast.service"), "/usr/lib/systemd/system/holdfast.service", files.TypeFile, 0o644),
				file(filepath.Join(work, "sysusers.conf"), "/usr/lib/sysusers.d/holdfast.conf", files.TypeFile, 0o644),
				file("appliance.toml", "/etc/holdfast/appliance.toml", files.TypeConfigNoReplace, 0o640),
				file("LICENSE", "/usr/share/doc/holdfast/copyright", files.TypeFile, 0o644),
				file("NOTICES.txt", "/usr/share/doc/holdfast/NOTICES.txt", files.TypeFile, 0o644),
				file("docs/admin.md", "/usr/share/doc/holdfast/admin.md", files.TypeFile, 0o644),
			},
			Scripts: nfpm.Scripts{PreInstall: filepath.Join(work, "preinst"), PostInstall: filepath.Join(work, "postinst"), PreRemove: filepath.Join(work, "prerm"), PostRemove: filepath.Join(work, "postrm")},
			Deb:     nfpm.Deb{Compression: "zstd"},
		},
	})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("holdfast_%s_%s.deb", version, arch))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := info.Validate(); err != nil {
		return "", err
	}
	if err := deb.Default.Package(info, f); err != nil {
		return "", err
	}
	return path, f.Close()
}

// The scripts leave to Debian's own tools whether the service shall run: what the
// administrator switched off, or forbids at all (policy-rc.d), stays off, and a package
// that is laid into a root folder without a running systemd is enabled there.

const preinst = `#!/bin/sh
set -e
if [ "$1" = install ] && [ -e /usr/local/bin/holdfast ] && [ -f /etc/systemd/system/holdfast.service ]; then
	echo "Here is a Holdfast that 'holdfast install' installed. Remove it first, then install the package:" >&2
	echo "    sudo /usr/local/bin/holdfast uninstall" >&2
	echo "Its data and configuration stay, and the package goes on with them." >&2
	exit 1
fi
`

const postinst = `#!/bin/sh
set -e
if [ "$1" = configure ]; then
	systemd-sysusers /usr/lib/sysusers.d/holdfast.conf
	# Secrets are written into it, so nobody else reads it. Later its owner is the administrator's choice.
	if [ -z "$2" ] && [ -e /etc/holdfast/appliance.toml ]; then
		chown root:holdfast /etc/holdfast/appliance.toml
	fi
fi
case "$1" in configure | abort-upgrade | abort-remove | abort-deconfigure)
	deb-systemd-helper unmask holdfast.service >/dev/null
	if deb-systemd-helper --quiet was-enabled holdfast.service; then
		deb-systemd-helper enable holdfast.service >/dev/null
	else
		deb-systemd-helper update-state holdfast.service >/dev/null
	fi
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		if ! deb-systemd-invoke restart holdfast.service; then
			echo "Holdfast is installed but does not run. 'journalctl -u holdfast' has the reason." >&2
		elif [ -z "$2" ] && systemctl --quiet is-active holdfast.service; then
			echo "Holdfast runs. 'sudo holdfast claim' prints the address and the code to set it up."
		fi
	fi
	;;
esac
`

const prerm = `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop holdfast.service
fi
`

const postrm = `#!/bin/sh
set -e
if [ "$1" = remove ] && command -v deb-systemd-helper >/dev/null; then
	deb-systemd-helper mask holdfast.service >/dev/null
fi
if [ "$1" = purge ]; then
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper purge holdfast.service >/dev/null
		deb-systemd-helper unmask holdfast.service >/dev/null
	fi
	rm -rf /etc/holdfast
	echo "The data in /var/lib/holdfast and the account holdfast stay; remove them by hand when nobody needs them."
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
`
