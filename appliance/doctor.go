package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"holdfast/appliance/certs"
	"holdfast/appliance/config"
)

// finding is one line of the doctor's report.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what was seen; if it is not well also what to do
}

var errUnwell = errors.New("something is wrong; see above")

func runDoctor(ctx context.Context, c *cli, _ []string) error {
	if c.hardware {
		return runHardware(c)
	}
	found := diagnose(ctx, c.in)
	unwell := false
	for _, f := range found {
		unwell = unwell || !f.OK
	}
	if c.json {
		if err := c.printJSON(found); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			mark := "ok   "
			if !f.OK {
				mark = "WRONG"
			}
			fmt.Fprintf(c.out, "%s  %-14s %s\n", mark, f.Name, f.Detail)
		}
	}
	if unwell {
		return errUnwell
	}
	return nil
}

// smallDisk is how much free space is too little to go on safely.
const smallDisk = 512 << 20

func diagnose(ctx context.Context, in config.Input) (out []finding) {
	add := func(name string, ok bool, format string, args ...any) {
		out = append(out, finding{name, ok, fmt.Sprintf(format, args...)})
	}
	cfg, err := config.Load(in)
	if err != nil {
		add("configuration", false, "%v", err)
		return out
	}
	add("configuration", true, "it can be used; holdfast config print shows it")

	if fi, err := os.Stat(cfg.Data); err != nil {
		add("data folder", errors.Is(err, os.ErrNotExist), "%s does not exist yet; holdfast serve makes it", cfg.Data)
	} else if !fi.IsDir() {
		add("data folder", false, "%s is not a folder; name another with --data", cfg.Data)
	} else {
		if fi.Mode().Perm()&0o077 != 0 {
			add("data folder", false, "others on this machine may look into %s; run: chmod 700 %s", cfg.Data, cfg.Data)
		} else {
			add("data folder", true, "%s", cfg.Data)
		}
		if free := diskFree(cfg.Data); free < smallDisk {
			add("disk", false, "only %d MiB are free; make room, or writes will be refused soon", free>>20)
		} else {
			add("disk", true, "%d MiB free", free>>20)
		}
	}

	if now := time.Now(); now.Year() < 2025 {
		add("clock", false, "the clock says %s; certificates and logins need the right time: set it", now.Format(time.DateTime))
	} else {
		add("clock", true, "%s", now.Format(time.DateTime))
	}

	var h health
	err = newControlClient(cfg.Data).call(ctx, "GET", "/v1/health", nil, &h)
	running := err == nil
	switch {
	case running:
		if h.Version != Version {
			add("appliance", false, "version %s is running, but this is %s; start it again", h.Version, Version)
		} else {
			add("appliance", true, "running as %s at %s, %d account(s), %d MiB of memory", h.ServerName, h.URL, h.Users, h.MemoryMiB)
		}
		for _, p := range h.Problems {
			add("appliance", false, "%s; see its log", p)
		}
		if !h.Claimed {
			add("setup", true, "nobody has claimed the appliance yet; holdfast claim prints a code")
		}
	case errors.Is(err, errNotRunning):
		add("appliance", true, "not running on this data folder")
	default:
		add("appliance", false, "%v", err)
	}

	if !running {
		for _, l := range []struct{ key, addr string }{
			{"listen.https", cfg.Listen.HTTPS}, {"listen.http", cfg.Listen.HTTP},
			{"listen.redirect", cfg.Listen.Redirect}, {"listen.federation", cfg.Listen.Federation}, {"listen.metrics", cfg.Listen.Metrics},
		} {
			if l.addr == "" {
				continue
			}
			ln, err := net.Listen("tcp", l.addr)
			if err != nil {
				add("port", false, "%s %s cannot be used: %v; stop the program that has it, or choose another", l.key, l.addr, err)
				continue
			}
			ln.Close()
			add("port", true, "%s %s is free", l.key, l.addr)
		}
	}
	out = append(out, diagnoseTLS(cfg)...)
	if addrs := lanAddrs(); len(addrs) == 0 {
		add("network", false, "this machine has no address in a network; other machines cannot reach it")
	} else {
		add("network", true, "reachable at %s", addrs[0])
	}
	return out
}

// soon is how long before its end a certificate is worth a word.
const soon = 14 * 24 * time.Hour

func diagnoseTLS(cfg *config.Config) (out []finding) {
	cert := ""
	switch cfg.TLS.Mode {
	case "own-ca":
		cert = filepath.Join(cfg.Data, "tls", "leaf.crt")
		if _, err := os.Stat(cert); err != nil {
			return nil // made at the first start
		}
	case "files":
		cert = cfg.TLS.Cert
	default:
		return nil
	}
	until, err := certs.NotAfter(cert)
	switch {
	case err != nil:
		return []finding{{"certificate", false, fmt.Sprintf("%v; check the file's name and content", err)}}
	case time.Until(until) < soon:
		return []finding{{"certificate", false, fmt.Sprintf("%s ends on %s; replace it", cert, until.Format(time.DateOnly))}}
	}
	return []finding{{"certificate", true, "valid until " + until.Format(time.DateOnly)}}
}
