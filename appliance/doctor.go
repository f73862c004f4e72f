package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/appliance/certs"
	"holdfast/appliance/config"
	"holdfast/appliance/masterkey"
	"holdfast/store"
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
		for line := range strings.SplitSeq(err.Error(), "\n") {
			add("configuration", false, "%s", line)
		}
		return out
	}
	add("configuration", true, "it can be used; holdfast config print shows it")

	dbFile := filepath.Join(cfg.Data, "holdfast.db")
	if fi, err := os.Stat(cfg.Data); err != nil {
		add("data folder", errors.Is(err, os.ErrNotExist), "%s does not exist yet; holdfast serve makes it", cfg.Data)
	} else if !fi.IsDir() {
		add("data folder", false, "%s is not a folder; name another with --data", cfg.Data)
	} else {
		if err := syscall.Access(cfg.Data, accessWrite); err != nil {
			add("data folder", false, "this user cannot write in %s: %v; use the user that it belongs to or root, and see that the disk is not mounted read-only", cfg.Data, err)
		} else if fi.Mode().Perm()&0o077 != 0 {
			add("data folder", false, "others on this machine may look into %s; run: chmod 700 %q", cfg.Data, cfg.Data)
		} else {
			add("data folder", true, "%s", cfg.Data)
		}
		if free := diskFree(cfg.Data); free < smallDisk {
			add("disk", false, "only %d MiB are free; make room, or writes will be refused soon", free>>20)
		} else {
			add("disk", true, "%d MiB free", free>>20)
		}
	}

	out = append(out, diagnoseClock(dbFile)...)
	out = append(out, diagnoseDatabase(ctx, dbFile)...)

	if keyGone(cfg) {
		add("master key", false, "%v", errKeyGone)
	} else if kept, err := masterkey.Look(keyFile(cfg)); err != nil {
		add("master key", false, "%v", err)
	} else if kept != "" {
		add("master key", true, "%s", keptText(masterkey.Status{Kept: kept}))
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
		if r := h.Relay; r != nil {
			switch {
			case !r.Running:
				add("call relay", false, "its process ended (%s) and is being started again; if that goes on, see the log, and whether another program took its ports", r.Reason)
			case r.Draining:
				add("call relay", true, "is about to stop: nobody new is let into a call, and those that run may go on for %d seconds at most (sfu.drain)", cfg.SFU.Drain)
			case r.Restarts > 0:
				add("call relay", true, "runs since %s, %d MiB of memory; it was started anew %d time(s), the last time because: %s", r.Since.Format(time.DateTime), r.MemoryBytes>>20, r.Restarts, r.Reason)
			default:
				add("call relay", true, "runs, %d MiB of memory", r.MemoryBytes>>20)
			}
		}
		if st := h.Cluster; st != nil {
			switch {
			case st.Trouble != "":
				add("call relays", false, "Redis at %s cannot be used (%s): calls are held on this machine alone until it is; look whether it runs and has the password of sfu.redis_password", st.Redis, st.Trouble)
			case len(st.Nodes) == 0:
				add("call relays", true, "no other machine takes calls; start holdfast sfu there with the same sfu.redis and sfu.cluster_key")
			}
			for _, n := range st.Nodes {
				add("call relay "+n.Name, true, "%s at %s: %d calls, %d people", n.State, strings.Join(n.Addresses, ", "), n.Rooms, n.Participants)
			}
		}
		if r := h.Relay; r != nil && r.Running && !r.Draining && h.Claimed {
			out = append(out, diagnoseCalls(ctx, newControlClient(cfg.Data))...)
		}
		out = append(out, diagnoseUpstreams(ctx, newControlClient(cfg.Data))...)
		if !h.Claimed {
			add("setup", true, "nobody has claimed the appliance yet; holdfast claim prints a code")
		}
	case errors.Is(err, errNotRunning):
		add("appliance", true, "not running on this data folder")
	default:
		add("appliance", false, "%v", err)
	}

	if !running {
		out = append(out, diagnosePorts(cfg)...)
	}
	if dir := cfg.Appservice.Dir; dir != "" {
		if _, err := os.ReadDir(dir); err != nil {
			add("appservice.dir", false, "%v; name a folder that this user may read", err)
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

const accessWrite = 2 // W_OK of access(2)

func diagnoseClock(dbFile string) []finding {
	now := time.Now()
	if now.Year() < 2025 {
		return []finding{{"clock", false, fmt.Sprintf("the clock says %s; certificates and logins need the right time: set it", now.Format(time.DateTime))}}
	}
	for _, f := range []string{dbFile, dbFile + "-wal"} {
		if fi, err := os.Stat(f); err == nil && fi.ModTime().After(now.Add(time.Hour)) {
			return []finding{{"clock", false, fmt.Sprintf("the clock says %s, but the database was written at %s; one of the times was wrong: set the clock", now.Format(time.DateTime), fi.ModTime().Format(time.DateTime))}}
		}
	}
	return []finding{{"clock", true, now.Format(time.DateTime)}}
}

func diagnoseDatabase(ctx context.Context, file string) []finding {
	if _, err := os.Stat(file); err != nil {
		return nil // made at the first start, or the folder cannot be read, which was said
	}
	switch err := store.Check(ctx, file); {
	case err == nil:
		return []finding{{"database", true, "whole, and of a version that this one can use"}}
	case errors.Is(err, store.ErrDamaged):
		return []finding{{"database", false, fmt.Sprintf("%v; keep a copy of the folder as it is, and put back a backup", err)}}
	default:
		return []finding{{"database", false, err.Error()}}
	}
}

// diagnosePorts tries the ports of an appliance that does not run.
func diagnosePorts(cfg *config.Config) (out []finding) {
	try := func(key, addr string, open func() (io.Closer, error)) {
		c, err := open()
		f := finding{Name: "port", OK: err == nil}
		switch {
		case err == nil:
			c.Close()
			f.Detail = fmt.Sprintf("%s %s is free", key, addr)
		case errors.Is(err, syscall.EADDRINUSE) && key == "listen.metrics" && !cfg.Explicit(key):
			f.OK, f.Detail = true, fmt.Sprintf("%s %s is taken, so there would be no metrics; choose another if you want them", key, addr)
		case errors.Is(err, syscall.EADDRINUSE):
			f.Detail = fmt.Sprintf("%s %s is used by another program; stop it, or choose another", key, addr)
		case errors.Is(err, syscall.EACCES):
			f.Detail = fmt.Sprintf("%s: this user may not listen on %s; choose a port above 1023, or start as root", key, addr)
		default:
			f.Detail = fmt.Sprintf("%s: %v; the address must be one of this machine", key, err)
		}
		out = append(out, f)
	}
	for _, l := range []struct{ key, addr string }{
		{"listen.https", cfg.Listen.HTTPS}, {"listen.http", cfg.Listen.HTTP},
		{"listen.redirect", cfg.Listen.Redirect}, {"listen.federation", cfg.Listen.Federation}, {"listen.metrics", cfg.Listen.Metrics},
	} {
		if l.addr != "" {
			try(l.key, l.addr, func() (io.Closer, error) { return net.Listen("tcp", l.addr) })
		}
	}
	if !cfg.SFU.Enabled {
		return out
	}
	for _, p := range []struct {
		key  string
		port int
		tcp  bool
	}{{"sfu.udp_port", cfg.SFU.UDPPort, false}, {"sfu.tcp_port", cfg.SFU.TCPPort, true}, {"sfu.turn_port", cfg.SFU.TURNPort, false}} {
		if p.port == 0 {
			continue // a free one is found
		}
		addr := ":" + strconv.Itoa(p.port)
		try(p.key, addr, func() (io.Closer, error) {
			if p.tcp {
				return net.Listen("tcp", addr)
			}
			return net.ListenPacket("udp", addr)
		})
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
		pair, err := tls.LoadX509KeyPair(cert, cfg.TLS.Key)
		if err != nil {
			return []finding{{"certificate", false, fmt.Sprintf("tls.cert and tls.key: %v; check the names, who may read them, and that they belong together", err)}}
		}
		if host := cfg.PublicHost(); host != "" && pair.Leaf.VerifyHostname(host) != nil {
			return []finding{{"certificate", false, fmt.Sprintf("%s is not for %s, by which clients reach the appliance; get one for that name, or change public_url", cert, host)}}
		}
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
