package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/appliance/masterkey"
	"holdfast/homeserver/appservice"
	"holdfast/homeserver/push/unifiedpush"
	"holdfast/identity"
	"holdfast/sfu"
	"holdfast/sfu/process"
	"holdfast/store/audit"
)

// The local socket: how the command line reaches the running appliance. It lies
// in the data folder with mode 0600, and only root and the user that the
// appliance runs as are answered.

const socketName = "holdfast.sock"

type control struct{ srv *http.Server }

// controlError is what the socket answers instead of a result.
type controlError struct {
	Message string `json:"error"`
}

func (e *controlError) Error() string { return e.Message }

// socketAddr is the socket's path by way of an open folder, since a path in a
// socket address has at most 107 bytes. The folder must stay open while it is used.
func socketAddr(dir string) (addr string, hold *os.File, err error) {
	hold, err = os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", hold.Fd(), socketName), hold, nil
}

func (a *Appliance) openControl() error {
	addr, hold, err := socketAddr(a.cfg.Data)
	if err != nil {
		return err
	}
	defer hold.Close()
	path := filepath.Join(a.cfg.Data, socketName)
	// The lock of the database shows that nobody else serves this folder.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mask := syscall.Umask(0o177)
	ln, err := net.Listen("unix", addr)
	syscall.Umask(mask)
	if err != nil {
		return fmt.Errorf("the local socket for the command line cannot be made: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // hold is closed by then
	c := &control{srv: &http.Server{Handler: a.controlHandler(), ReadHeaderTimeout: headerTime}}
	a.control = c
	go c.srv.Serve(onlyPeers{ln})
	a.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		c.srv.Shutdown(ctx)
		os.Remove(path)
	})
	return nil
}

// onlyPeers drops connections of other users.
type onlyPeers struct{ net.Listener }

func (l onlyPeers) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c.(*net.UnixConn)); err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// userInfo is a user as the command line prints it.
type userInfo struct {
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"display_name"`
	Admin       bool      `json:"admin"`
	State       string    `json:"state"`
	Created     time.Time `json:"created"`
	LastSeen    time.Time `json:"last_seen,omitzero"`
}

type newUserRequest struct {
	Localpart   string `json:"localpart"`
	DisplayName string `json:"display_name"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
}

type inviteRequest struct {
	Uses      int      `json:"uses"`
	Seconds   int64    `json:"seconds"`
	Localpart string   `json:"localpart"`
	Roles     []string `json:"roles"`
	Groups    []string `json:"groups"`
}

// inviteInfo is an invite as the command line prints it.
type inviteInfo struct {
	ID      string    `json:"id"`
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// linkInfo is a link for a new password as the command line prints it.
type linkInfo struct {
	UserID      string    `json:"user_id"`
	Localpart   string    `json:"username"`
	DisplayName string    `json:"displayname"`
	URL         string    `json:"url"`
	Expires     time.Time `json:"expires"`
}

// health is what doctor asks the running appliance.
type health struct {
	Version    string           `json:"version"`
	ServerName string           `json:"server_name"`
	URL        string           `json:"url"`
	Claimed    bool             `json:"claimed"`
	Problems   []string         `json:"problems"`
	Users      int              `json:"users"`
	MemoryMiB  int64            `json:"memory_mib"`
	DiskMiB    int64            `json:"disk_free_mib"`
	TLS        string           `json:"tls"`
	MasterKey  masterkey.Status `json:"master_key"`
	// Relay is the call relay's process; nil: calls are switched off.
	Relay *process.Status `json:"relay,omitempty"`
	// Cluster is how the relay's cluster is; nil without one.
	Cluster *sfu.ClusterStatus `json:"cluster,omitempty"`
}

func (a *Appliance) controlHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := f(r.WithContext(audit.As(r.Context(), audit.CommandLine)))
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				out = controlError{a.controlMessage(err)}
			}
			json.NewEncoder(w).Encode(out)
		})
	}
	handle("GET /v1/health", func(r *http.Request) (any, error) { return a.health(r.Context()) })
	handle("POST /v1/calls/test", func(r *http.Request) (any, error) { return a.testCalls(r.Context()) })
	handle("POST /v1/claim-code", func(r *http.Request) (any, error) {
		code, err := a.openClaim(r.Context())
		if err == nil && code != "" {
			err = a.audit.Append(r.Context(), audit.Event{Name: "claim.code"})
		}
		if err == nil && code == "" {
			err = errClaimed
		}
		return map[string]string{"code": code, "url": a.sharedURL() + "/setup"}, err
	})
	handle("GET /v1/users", func(r *http.Request) (any, error) {
		list, err := a.people(r.Context())
		out := make([]userInfo, 0, len(list))
		for _, u := range list {
			out = append(out, toUserInfo(u))
		}
		return out, err
	})
	handle("POST /v1/users", func(r *http.Request) (any, error) {
		var in newUserRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		name, err := a.newLocalpart(in.Localpart)
		if err != nil {
			return nil, err
		}
		u, err := a.core.Load().identity.CreateUser(r.Context(), identity.NewUser{
			Localpart: name, DisplayName: in.DisplayName, Password: in.Password, Admin: in.Admin, Source: "cli"})
		return toUserInfo(u), err
	})
	handle("POST /v1/users/{user}/password", func(r *http.Request) (any, error) {
		var in struct {
			Password string `json:"password"`
			Keep     bool   `json:"keep_sessions"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		id := a.userID(r.PathValue("user"))
		return userInfo{UserID: id}, a.core.Load().identity.SetPassword(r.Context(), id, in.Password, "", in.Keep)
	})
	handle("POST /v1/users/{user}/recover", func(r *http.Request) (any, error) {
		var in struct {
			Seconds int64 `json:"seconds"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		l, err := a.core.Load().identity.RecoveryLink(r.Context(), a.userID(r.PathValue("user")), time.Duration(in.Seconds)*time.Second)
		if err != nil {
			return nil, err
		}
		a.log.Info("a recovery link was made from the command line", "user", l.User.UserID, "link", l.ID)
		return linkInfo{l.User.UserID, l.User.Localpart, l.User.DisplayName, a.inviteURL(l.Token, ""), l.Expires}, nil
	})
	handle("POST /v1/users/{user}/disabled", func(r *http.Request) (any, error) {
		var in struct {
			Disabled bool `json:"disabled"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		id := a.userID(r.PathValue("user"))
		return userInfo{UserID: id}, a.core.Load().identity.SetDisabled(r.Context(), id, in.Disabled)
	})
	handle("POST /v1/invites", func(r *http.Request) (any, error) {
		var in inviteRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		name, err := a.newLocalpart(in.Localpart)
		if err != nil {
			return nil, err
		}
		roles, err := parseRoles(in.Roles)
		if err != nil {
			return nil, err
		}
		i, err := a.core.Load().identity.CreateInvite(r.Context(), identity.NewInvite{
			Uses: in.Uses, ExpiresIn: time.Duration(in.Seconds) * time.Second, Localpart: name, Roles: roles, Groups: in.Groups})
		return inviteInfo{i.ID, a.inviteURL(i.Token, ""), i.Expires}, err
	})
	a.mailControl(handle)
	a.directoryControl(handle)
	a.upstreamControl(handle)
	a.listControl(handle)
	a.cardControl(handle)
	a.groupControl(handle)
	a.placeControl(handle)
	a.filesControl(handle)
	a.loginControl(handle)
	a.noticeControl(handle)
	a.pushControl(handle)
	a.appserviceControl(handle)
	a.previewsControl(handle)
	a.appControl(handle)
	a.auditControl(mux, handle)
	a.masterControl(handle)
	handle("POST /v1/clock/accept", func(r *http.Request) (any, error) {
		return struct{}{}, a.core.Load().identity.AcceptClock(r.Context())
	})
	return mux
}

func readJSON(r *http.Request, into any) error {
	return json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(into)
}

// localpart takes "@anna:example.org" and "anna" for the same.
func localpart(s string) string {
	s = strings.TrimPrefix(s, "@")
	s, _, _ = strings.Cut(s, ":")
	return s
}

// newLocalpart is localpart of a name that is to be an account here.
func (a *Appliance) newLocalpart(s string) (string, error) {
	if _, server, ok := strings.Cut(s, ":"); ok && strings.HasPrefix(s, "@") && server != a.ServerName() {
		return "", fmt.Errorf("accounts of this appliance end in :%s; leave the part after the colon away", a.ServerName())
	}
	return localpart(s), nil
}

func (a *Appliance) userID(s string) string {
	if strings.HasPrefix(s, "@") && strings.Contains(s, ":") {
		return s
	}
	return "@" + localpart(s) + ":" + a.ServerName()
}

func toUserInfo(u identity.User) userInfo {
	return userInfo{u.UserID, u.DisplayName, u.Admin, u.State, u.Created, u.LastSeen}
}

// controlMessage says what a failed command means and what to do.
func (a *Appliance) controlMessage(err error) string {
	if m := directoryMessage(err); m != "" {
		return m
	}
	if m := upstreamMessage(err); m != "" {
		return m
	}
	if m := groupMessage(err); m != "" {
		return m
	}
	if m := placeMessage(err); m != "" {
		return m
	}
	if m := listMessage(err); m != "" {
		return m
	}
	if m := cardMessage(err); m != "" {
		return m
	}
	var weak *identity.WeakPassword
	var wrongApp *identity.AppError
	switch {
	case errors.As(err, &wrongApp):
		return wrongApp.Msg
	case errors.Is(err, identity.ErrApps):
		return "there are too many applications; remove one that is not used any more with: holdfast app remove ID"
	case errors.Is(err, identity.ErrUserExists):
		return "this user name is taken; choose another, or set a new password with: holdfast user password NAME"
	case errors.Is(err, identity.ErrBadName):
		return "this user name is not allowed; it has small letters, digits and . _ = - / + only, such as anna.meyer"
	case errors.As(err, &weak):
		return weak.Text() + " Take another, or leave --password away to get one made"
	case errors.Is(err, identity.ErrNoUser):
		return "there is no such user; holdfast user list shows all"
	case errors.Is(err, identity.ErrLinkTime):
		return "a link lasts for at most 30 days; write for example --expires 24h"
	case errors.Is(err, identity.ErrLocked):
		return "this account is locked; unlock it first with: holdfast user disable NAME --undo"
	case errors.Is(err, unifiedpush.ErrNoPhone):
		return "this person has no such phone; holdfast push list shows all"
	case errors.Is(err, identity.ErrNoApp):
		return "there is no application of this id; holdfast app list shows all"
	case errors.Is(err, identity.ErrSecrets):
		return "the application has two secrets already; remove the older one first with: holdfast app secret ID --remove SECRET"
	case errors.Is(err, identity.ErrNoSecret):
		return "the application has no such secret; holdfast app list --json shows them"
	case errors.Is(err, identity.ErrPublic):
		return "this application does not prove itself by a secret"
	case errors.Is(err, appservice.ErrUnknown):
		return "there is no application service of this id; holdfast appservice list shows all"
	case errors.Is(err, errClaimed):
		return "this appliance was set up already; log in, or make an administrator with: holdfast user add NAME --admin"
	}
	return err.Error()
}

func (a *Appliance) health(ctx context.Context) (health, error) {
	users, err := a.people(ctx)
	if err != nil {
		return health{}, err
	}
	st, err := setup{a}.State(ctx)
	h := health{
		Version: Version, ServerName: a.ServerName(), URL: a.sharedURL(), Claimed: st.Claimed(),
		Problems: slices.Concat(a.problems(ctx), a.directoryProblems(ctx), a.samlProblems(), a.auditProblems(), a.clockProblems()), Users: len(users), MemoryMiB: residentBytes() >> 20,
		DiskMiB: diskFree(a.cfg.Data) >> 20, TLS: a.tlsMode(), MasterKey: a.master.Status(),
	}
	if a.sfu != nil {
		relay := a.sfu.Status()
		h.Relay = &relay
		if a.cfg.SFU.Redis != "" {
			st := a.sfu.Cluster()
			h.Cluster = &st
		}
	}
	return h, err
}

// controlClient talks to the appliance that serves a data folder.
type controlClient struct {
	dir  string
	http *http.Client
}

var errNotRunning = errors.New("no running appliance")

func newControlClient(dir string) *controlClient {
	return &controlClient{dir, &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			addr, hold, err := socketAddr(dir)
			if err != nil {
				return nil, err
			}
			defer hold.Close()
			return new(net.Dialer).DialContext(ctx, "unix", addr)
		}},
	}}
}

func (c *controlClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = strings.NewReader(string(b))
	}
	return c.send(ctx, method, path, body, out)
}

// stream copies an answer that is no JSON value, however long it takes.
func (c *controlClient) stream(ctx context.Context, path string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://appliance"+path, nil)
	if err != nil {
		return err
	}
	patient := *c.http
	patient.Timeout = 0
	resp, err := patient.Do(req)
	if err != nil {
		return c.unreached(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("the appliance broke off: %w; see its log", err)
	}
	return nil
}

// unreached says why the appliance could not be asked.
func (c *controlClient) unreached(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w in %s: start it with holdfast serve --data %s, or name the right folder with --data", errNotRunning, c.dir, c.dir)
	case errors.Is(err, syscall.EACCES), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the appliance in %s belongs to another user; use that user, or root (sudo)", c.dir)
	}
	return err
}

func refusal(resp *http.Response) error {
	var e controlError
	if json.NewDecoder(resp.Body).Decode(&e) != nil || e.Message == "" {
		return errors.New("the appliance answered with status " + strconv.Itoa(resp.StatusCode) + "; is it of the same version?")
	}
	return &e
}

// send is call with a body as it is.
func (c *controlClient) send(ctx context.Context, method, path string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://appliance"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreached(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
