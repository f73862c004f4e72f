package appliance

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/appliance/config"
	"holdfast/identity"
	"holdfast/web"
)

func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// client reaches the appliance that runs on the configured data folder.
func (c *cli) client() (*controlClient, error) {
	cfg, err := config.Load(c.in)
	if err != nil {
		return nil, err
	}
	return newControlClient(cfg.Data), nil
}

// newPassword is the password that was given, or a new one that must be shown, as long as
// the rules of signing in want it.
func (c *cli) newPassword(ctx context.Context, cl *controlClient) (password string, made bool, err error) {
	switch {
	case c.password != "" && c.passwordStdin:
		return "", false, &usageError{"give --password or --password-stdin, not both"}
	case c.password != "":
		return c.password, false, nil
	case c.passwordStdin:
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)).ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return "", false, fmt.Errorf("the password cannot be read from standard input: %w", err)
		case line == "":
			return "", false, errors.New("no password came on standard input; its first line is the password")
		}
		return line, false, nil
	}
	var rules loginRules
	if err := cl.call(ctx, "GET", "/v1/login", nil, &rules); err != nil {
		return "", false, err
	}
	least, err := strconv.Atoi(rules.PasswordMin)
	if err != nil {
		return "", false, err
	}
	t := strings.ToLower(rand.Text() + rand.Text() + rand.Text())
	groups := []string{t[:5], t[5:10], t[10:15], t[15:20]}
	for i := 20; len(strings.Join(groups, "-")) < least; i += 5 {
		groups = append(groups, t[i:i+5])
	}
	return strings.Join(groups, "-"), true, nil
}

func runUserAdd(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	pw, made, err := c.newPassword(ctx, cl)
	if err != nil {
		return err
	}
	var u userInfo
	if err := cl.call(ctx, "POST", "/v1/users", newUserRequest{args[0], c.displayName, pw, c.admin}, &u); err != nil {
		return err
	}
	return c.printPassword(u.UserID, pw, made, "was made")
}

func (c *cli) printPassword(user, pw string, made bool, what string) error {
	if c.json {
		out := map[string]string{"user_id": user}
		if made {
			out["password"] = pw
		}
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "%s %s.\n", user, what)
	if made {
		fmt.Fprintf(c.out, "Password: %s\nIt is not shown again.\n", pw)
	}
	return nil
}

func runUserList(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list []userInfo
	if err := cl.call(ctx, "GET", "/v1/users", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "There are no accounts yet. holdfast user add NAME makes one.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "USER\tNAME\tSTATE\tADMIN\tLAST SEEN")
	for _, u := range list {
		seen, admin := "never", ""
		if !u.LastSeen.IsZero() {
			seen = u.LastSeen.Local().Format("2006-01-02 15:04")
		}
		if u.Admin {
			admin = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.UserID, u.DisplayName, u.State, admin, seen)
	}
	return w.Flush()
}

func runUserPassword(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	pw, made, err := c.newPassword(ctx, cl)
	if err != nil {
		return err
	}
	in := map[string]any{"password": pw, "keep_sessions": c.keep}
	var u userInfo
	if err := cl.call(ctx, "POST", "/v1/users/"+url.PathEscape(args[0])+"/password", in, &u); err != nil {
		return err
	}
	return c.printPassword(u.UserID, pw, made, "has a new password")
}

func runUserDisable(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var u userInfo
	if err := cl.call(ctx, "POST", "/v1/users/"+url.PathEscape(args[0])+"/disabled", map[string]bool{"disabled": !c.undo}, &u); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"user_id": u.UserID, "disabled": !c.undo})
	}
	if c.undo {
		fmt.Fprintf(c.out, "%s may log in again.\n", u.UserID)
	} else {
		fmt.Fprintf(c.out, "%s is locked and logged out everywhere. --undo unlocks the account.\n", u.UserID)
	}
	return nil
}

func runInvite(ctx context.Context, c *cli, _ []string) error {
	d, err := parseDuration(c.expires)
	if err != nil || d < time.Second {
		return &usageError{fmt.Sprintf("--expires %q is not a duration; write for example 30m, 12h or 7d", c.expires)}
	}
	if c.uses < 1 {
		return &usageError{"--uses must be at least 1"}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var i inviteInfo
	if err := cl.call(ctx, "POST", "/v1/invites", inviteRequest{c.uses, int64(d / time.Second), c.inviteName, c.inviteRoles(), c.groups}, &i); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(i)
	}
	fmt.Fprintf(c.out, "%s\nValid until %s, for %d account(s).\n\n", i.URL, i.Expires.Local().Format("2006-01-02 15:04"), c.uses)
	writeQR(c.out, i.URL)
	return nil
}

// inviteRoles are those that --role and --admin name.
func (c *cli) inviteRoles() []string {
	if c.admin {
		return append(c.roles, "admin")
	}
	return c.roles
}

func runUserRecover(ctx context.Context, c *cli, args []string) error {
	if c.card.cards != "" || c.card.pins != "" {
		return c.printNew(ctx, web.NewBatch{Name: args[0], Kind: identity.CardRecovery, Users: []string{args[0]}})
	}
	d, err := parseDuration(c.expires)
	if err != nil || d < time.Second {
		return &usageError{fmt.Sprintf("--expires %q is not a duration; write for example 30m, 12h or 7d", c.expires)}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var l linkInfo
	if err := cl.call(ctx, "POST", "/v1/users/"+url.PathEscape(args[0])+"/recover", map[string]int64{"seconds": int64(d / time.Second)}, &l); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(l)
	}
	fmt.Fprintf(c.out, "%s\nFor %s, once, until %s. It is not shown again.\n\n", l.URL, l.UserID, l.Expires.Local().Format("2006-01-02 15:04"))
	writeQR(c.out, l.URL)
	return nil
}

// parseDuration is time.ParseDuration with days.
func parseDuration(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.Atoi(n)
		if err != nil || days < 0 || days > 3650 {
			return 0, errors.New("not a number of days")
		}
		return time.Duration(days) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}

func runClaim(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out struct {
		Code string `json:"code"`
		URL  string `json:"url"`
	}
	if err := cl.call(ctx, "POST", "/v1/claim-code", nil, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "Open %s and type this code:\n\n    %s\n\n", out.URL, out.Code)
	writeQR(c.out, out.URL+"#code="+out.Code)
	return nil
}

func runConfigPrint(_ context.Context, c *cli, _ []string) error {
	if c.template {
		return config.Template(c.out)
	}
	cfg, err := config.Load(c.in)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(cfg.Values())
	}
	return cfg.Print(c.out)
}
