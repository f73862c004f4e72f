package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/appliance/config"
	"holdfast/homeserver/appservice"
	"holdfast/web"
)

// maxRegistrationFile bounds what is read of a registration file, in bytes. It is above
// what the homeserver takes, which says so in its own words.
const maxRegistrationFile = 1 << 20

// appserviceControl are the operations of the local socket about application services.
func (a *Appliance) appserviceControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	services := func() *appservice.Service { return a.core.Load().hs.Appservice }
	handle("GET /v1/appservices", func(r *http.Request) (any, error) { return services().List(r.Context()) })
	handle("POST /v1/appservices", func(r *http.Request) (any, error) {
		text, err := io.ReadAll(io.LimitReader(r.Body, maxRegistrationFile))
		if err != nil {
			return nil, err
		}
		return services().Add(r.Context(), text)
	})
	// The ID may be anything, so it is not in the path.
	one := func(name string, f func(ctx context.Context, id string) error) {
		handle("POST /v1/appservice-"+name, func(r *http.Request) (any, error) {
			var in struct {
				ID string `json:"id"`
			}
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			return struct{}{}, f(r.Context(), in.ID)
		})
	}
	one("remove", func(ctx context.Context, id string) error { return services().Remove(ctx, id) })
	one("retry", func(_ context.Context, id string) error { return services().Retry(id) })
	handle("GET /v1/server-name", func(*http.Request) (any, error) { return a.ServerName(), nil })
}

// Bridges, RemoveBridge and RetryBridge serve the console.

func (a console) Bridges(ctx context.Context) ([]web.Bridge, error) {
	list, err := a.core.Load().hs.Appservice.List(ctx)
	out := make([]web.Bridge, 0, len(list))
	for _, i := range list {
		out = append(out, web.Bridge{ID: i.ID, URL: i.URL, UserID: i.Sender, File: i.Source, Waiting: i.Waiting,
			LastTaken: i.LastTaken, Failing: i.Failing, Trouble: i.Error})
	}
	return out, err
}

func (a console) RemoveBridge(ctx context.Context, id string) error {
	return bridgeError(a.core.Load().hs.Appservice.Remove(ctx, id))
}

func (a console) RetryBridge(_ context.Context, id string) error {
	return bridgeError(a.core.Load().hs.Appservice.Retry(id))
}

func bridgeError(err error) error {
	var wrong *appservice.Error
	switch {
	case errors.Is(err, appservice.ErrUnknown):
		return &web.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is no such bridge or bot any more."}
	case errors.As(err, &wrong):
		return &web.Error{Status: http.StatusConflict, Code: "by_file", Message: "It is registered by a file of appservice.dir: remove the file and start the appliance anew."}
	}
	return err
}

// services is the client for requests to application services. Their addresses are the
// administrator's own word, and most are on this machine; what they answer leads nowhere
// else.
func services() *http.Client {
	c := outbound(true)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// list is an option that may be repeated.
type list struct{ to *[]string }

func (l list) String() string { return "" }
func (l list) Set(v string) error {
	*l.to = append(*l.to, v)
	return nil
}

func runAppserviceList(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var all []appservice.Info
	if err := cl.call(ctx, "GET", "/v1/appservices", nil, &all); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(c.out, "There are no application services. holdfast appservice add FILE registers one.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tUSER\tADDRESS\tWAITING\tSTATE\tREGISTERED BY")
	for _, i := range all {
		by, url := i.Source, i.URL
		if by == "" {
			by = "holdfast appservice add"
		}
		if url == "" {
			url = "none"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", i.ID, i.Sender, url, i.Waiting, serviceState(i), by)
	}
	return w.Flush()
}

// serviceState says in a few words how it goes with a service.
func serviceState(i appservice.Info) string {
	at := func(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }
	switch {
	case i.URL == "":
		return "nothing is sent to it"
	case i.Error != "":
		return "away since " + at(i.Failing) + ": " + i.Error
	case i.LastTaken.IsZero():
		return "nothing was sent yet"
	}
	return "took the last at " + at(i.LastTaken)
}

func runAppserviceAdd(ctx context.Context, c *cli, args []string) error {
	text, err := readRegistration(args[0])
	if err != nil {
		return err
	}
	i, err := c.addAppservice(ctx, args[0], text)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(i)
	}
	c.printAdded(i)
	return nil
}

// readRegistration reads a registration file; "-" is standard input.
func readRegistration(name string) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, fmt.Errorf("the registration file cannot be read: %w", err)
		}
		defer f.Close()
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRegistrationFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the registration file cannot be read: %w", err)
	case len(text) > maxRegistrationFile:
		return nil, fmt.Errorf("%s is larger than 1 MiB: it is no registration of an application service", name)
	}
	return text, nil
}

// addAppservice registers a service by the text of its file.
func (c *cli) addAppservice(ctx context.Context, name string, text []byte) (i appservice.Info, err error) {
	cl, err := c.client()
	if err != nil {
		return i, err
	}
	err = cl.send(ctx, "POST", "/v1/appservices", strings.NewReader(string(text)), &i)
	var ce *controlError
	if errors.As(err, &ce) {
		return i, fmt.Errorf("%s: %w", name, err)
	}
	return i, err
}

func (c *cli) printAdded(i appservice.Info) {
	fmt.Fprintf(c.out, "%s is registered. Its user is %s.\n", i.ID, i.Sender)
	if i.URL == "" {
		fmt.Fprintln(c.out, "Nothing is sent to it, since its registration has no url.")
	} else {
		fmt.Fprintf(c.out, "It is sent what interests it from now on, to %s; holdfast appservice list tells whether it takes it.\n", i.URL)
	}
}

func runAppserviceRemove(ctx context.Context, c *cli, args []string) error {
	if err := c.oneAppservice(ctx, "remove", args[0]); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s is removed, and what waited for it is dropped. Its users and rooms stay.\n", args[0])
	return nil
}

func runAppserviceRetry(ctx context.Context, c *cli, args []string) error {
	if err := c.oneAppservice(ctx, "retry", args[0]); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "What waits for %s is sent now; holdfast appservice list tells whether it takes it.\n", args[0])
	return nil
}

func (c *cli) oneAppservice(ctx context.Context, what, id string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return cl.call(ctx, "POST", "/v1/appservice-"+what, map[string]string{"id": id}, &struct{}{})
}

// appserviceFlags are the options of appservice generate.
type appserviceFlags struct {
	appservice.Draft
	out string
	add bool
}

func runAppserviceGenerate(ctx context.Context, c *cli, args []string) error {
	d := c.app.Draft
	switch d.ID = args[0]; d.URL {
	case "":
		return &usageError{"say with --url where the service listens, as http://127.0.0.1:29300; or none if it only sends"}
	case "none":
		d.URL = ""
	}
	if d.URL == "" && (d.Ephemeral || d.Encryption) {
		return &usageError{"without an address nothing can be sent to it: leave --ephemeral and --encryption away"}
	}
	name, err := c.serverName(ctx)
	if err != nil {
		return err
	}
	text, err := appservice.Generate(name, d)
	if err != nil {
		return &usageError{err.Error()}
	}
	to := c.app.out
	if to == "" {
		to = d.ID + ".yaml"
		if strings.ContainsAny(d.ID, "/\x00") {
			return &usageError{fmt.Sprintf("%q is no file name; say with --out where to write", d.ID)}
		}
	}
	if to == "-" {
		if c.app.add {
			return &usageError{"--add needs a file: give --out FILE, or add it afterwards with holdfast appservice add"}
		}
		_, err := c.out.Write(text)
		return err
	}
	// Others on this machine do not read it; one that is there is perhaps in use.
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already, and its tokens may be in use; name another with --out, or remove it first", to)
	}
	if err != nil {
		return fmt.Errorf("the registration cannot be written: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(to)
		return fmt.Errorf("the registration cannot be written: %w", err)
	}
	if !c.app.add {
		if c.json {
			return c.printJSON(map[string]any{"id": d.ID, "file": to})
		}
		fmt.Fprintf(c.out, "%s is written, readable by you alone. Give it to the service, then register it: holdfast appservice add %s\n", to, to)
		return nil
	}
	i, err := c.addAppservice(ctx, to, text)
	if err != nil {
		os.Remove(to) // so that the same command can be tried again
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"id": d.ID, "file": to, "appservice": i})
	}
	fmt.Fprintf(c.out, "%s is written, readable by you alone. Give it to the service.\n", to)
	c.printAdded(i)
	return nil
}

// serverName is that of the appliance that runs, else that of the configuration.
func (c *cli) serverName(ctx context.Context) (name string, err error) {
	cfg, err := config.Load(c.in)
	if err != nil {
		return "", err
	}
	err = newControlClient(cfg.Data).call(ctx, "GET", "/v1/server-name", nil, &name)
	if errors.Is(err, errNotRunning) && cfg.ServerName != "" {
		return cfg.ServerName, nil
	}
	return name, err
}
