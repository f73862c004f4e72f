// Command build makes the disk image of Holdfast and all that is published with it:
// of pinned Debian packages that are unpacked and never installed, and of the
// program, as any user and without a loop device. It is started by make image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/image/update"
)

// options are what make image says.
type options struct {
	version  string
	created  time.Time // the commit's time, which all files have
	archs    []string
	formats  []string
	binaries string // path of the program, with %s for the architecture
	out      string
	cache    string
	keys     string
	sources  string
	snapshot snapshot
	secure   bool
	notes    string // what is new, for the update
	lists    string // NOTICES.txt
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

var allFormats = []string{"raw", "zst", "qcow2", "vmdk", "hfu", "rpi"}

func run(ctx context.Context, args []string) error {
	var o options
	var epoch int64
	var archs, formats string
	f := flag.NewFlagSet("build", flag.ContinueOnError)
	f.StringVar(&o.version, "version", "", "version of the image")
	f.Int64Var(&epoch, "epoch", 0, "time of the commit, in seconds")
	f.StringVar(&archs, "arch", "amd64", "architectures, with blanks between")
	f.StringVar(&formats, "formats", strings.Join(allFormats, " "), "formats, with blanks between")
	f.StringVar(&o.binaries, "binary", "bin/linux-%s/holdfast", "the program, %s for the architecture")
	f.StringVar(&o.out, "out", "bin/image", "folder of what is built")
	f.StringVar(&o.cache, "cache", "", "folder of what was fetched")
	f.StringVar(&o.keys, "keys", "", "folder of the keys")
	f.StringVar(&o.sources, "apt-sources", "", "apt sources of Debian, instead of this machine's")
	old := f.String("snapshot", string(debianSnapshot), "archive of old packages, for what Debian does not serve any more; empty: none")
	f.BoolVar(&o.secure, "secureboot", false, "sign for Secure Boot")
	notes := f.String("notes", "", "file that says what is new")
	f.StringVar(&o.lists, "notices", "NOTICES.txt", "list of what is built into the program")
	newKeys := f.Bool("new-keys", false, "make keys in the folder of the keys and do nothing else")
	sources := f.String("sources", "", "fetch the source packages into this folder and do nothing else")
	pins := f.Bool("pins", false, "write the list of packages anew and do nothing else")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.snapshot = snapshot(strings.TrimRight(*old, "/"))
	o.created = time.Unix(epoch, 0).UTC()
	o.archs, o.formats = strings.Fields(archs), strings.Fields(formats)
	if o.cache == "" {
		o.cache = cacheDir()
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	switch {
	case *newKeys:
		if o.keys == "" {
			return errors.New("-new-keys: name the folder; keys belong outside the repository")
		}
		return makeKeys(o.keys, true)
	case *sources != "":
		return fetchSources(ctx, o, *sources)
	}
	if *notes != "" {
		b, err := os.ReadFile(*notes)
		if err != nil {
			return err
		}
		o.notes = strings.TrimSpace(string(b))
	}
	if *pins {
		return refreshPins(ctx, o.cache, o.sources)
	}
	if err := update.CheckVersion(o.version); err != nil {
		return fmt.Errorf("-version %q: an image needs a version such as 1.4.0 or 0.0.412-gb7c69ad", o.version)
	}
	if o.created.Year() < 2020 {
		return errors.New("-epoch: the commit's time is missing")
	}
	for _, a := range o.archs {
		if a != "amd64" && a != "arm64" {
			return fmt.Errorf("-arch %q: amd64 and arm64 are known", a)
		}
	}
	for _, name := range o.formats {
		if !slices.Contains(allFormats, name) {
			return fmt.Errorf("-formats %q: %s are known", name, strings.Join(allFormats, ", "))
		}
	}
	return build(ctx, o)
}

// cacheDir is outside the repository where the user has a folder for such things.
func cacheDir() string {
	if dir, err := os.UserCacheDir(); err == nil {
		dir = filepath.Join(dir, "holdfast")
		if os.MkdirAll(dir, 0o755) == nil {
			return dir
		}
	}
	dir, _ := filepath.Abs("bin/cache")
	return dir
}
