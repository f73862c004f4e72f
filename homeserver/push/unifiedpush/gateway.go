package unifiedpush

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/push/webpush"
	"holdfast/homeserver/route"
)

// GatewayPath is where clients look for a push gateway, at the root of the host that
// an endpoint is on.
const GatewayPath = "/_matrix/push/v1/notify"

// WebAppID is the app_id of pushers that send to browsers. Only our own pushers may:
// the gateway signs for the browser with this server's key.
const WebAppID = "holdfast.web"

// webTTL is how long a push service keeps a message for a browser that is away.
const webTTL = 24 * time.Hour

type discovery struct {
	UnifiedPush struct {
		Gateway string `json:"gateway"`
	} `json:"unifiedpush"`
}

// probe answers a client that looks whether there is a gateway for UnifiedPush.
func (s *Service) probe(context.Context, *route.Request) (d discovery, err error) {
	d.UnifiedPush.Gateway = "matrix"
	return d, nil
}

type notifyRequest struct {
	Notification mx.Raw `json:"notification"`
}

type notifyResponse struct {
	Rejected []string `json:"rejected"`
}

// notify takes a notification from a homeserver. Spec: push-gateway#post_matrixpushv1notify
func (s *Service) notify(ctx context.Context, _ *route.Request, in notifyRequest) (notifyResponse, error) {
	rejected, err := s.deliver(ctx, in.Notification, true)
	return notifyResponse{rejected}, err
}

// Deliver takes a notification of this server's own pushers, if at is the address of
// this gateway; else ok is false. Nothing passes the network, so it does not matter
// whether the server may reach, or trusts, itself.
func (s *Service) Deliver(ctx context.Context, at string, body []byte) (rejected []string, ok bool, err error) {
	if !s.IsGateway(at) {
		return nil, false, nil
	}
	var in notifyRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, true, err
	}
	rejected, err = s.deliver(ctx, in.Notification, false)
	return rejected, true, err
}

// IsGateway reports whether a URL is that of this gateway.
func (s *Service) IsGateway(at string) bool {
	u, err := url.Parse(at)
	return err == nil && u.Path == GatewayPath && s.o.Own(u)
}

// CheckPusher reports what is wrong with a pusher that sends by this gateway, when a
// client sets it.
func (s *Service) CheckPusher(appID, pushkey, at string, data map[string]any) error {
	if appID != WebAppID || !s.IsGateway(at) {
		return nil
	}
	if s.o.Web == nil {
		return mx.Errorf(mx.InvalidParam, "This server does not send to browsers.")
	}
	if err := subscription(pushkey, data).Check(); err != nil {
		return &mx.Error{Code: mx.InvalidParam, Msg: "This is not the subscription of a browser: " + err.Error() + ".", Err: err}
	}
	return nil
}

// subscription is a browser's, as its pusher holds it.
func subscription(pushkey string, data map[string]any) webpush.Subscription {
	endpoint, _ := data["endpoint"].(string)
	auth, _ := data["auth"].(string)
	return webpush.Subscription{Endpoint: endpoint, P256dh: pushkey, Auth: auth}
}

type pushDevice struct {
	AppID   string         `json:"app_id"`
	Pushkey string         `json:"pushkey"`
	Data    map[string]any `json:"data"`
}

// deliver brings a notification to its devices. It returns the pushkeys that are to
// be given up. An error means that it may be sent again; who got it then gets it
// twice, which clients put up with.
func (s *Service) deliver(ctx context.Context, raw mx.Raw, outside bool) (rejected []string, err error) {
	var n map[string]json.RawMessage
	var devices []json.RawMessage
	if raw == nil {
		return nil, mx.Errorf(mx.MissingParam, "Missing parameters: notification")
	}
	if json.Unmarshal(raw, &n) != nil || n == nil {
		return nil, mx.Errorf(mx.BadJSON, "The notification must be an object.")
	}
	if json.Unmarshal(n["devices"], &devices) != nil || len(devices) == 0 {
		return nil, mx.Errorf(mx.BadJSON, "The notification needs a list of devices.")
	}
	if len(devices) > maxDevices {
		return nil, mx.Errorf(mx.TooLarge, "A notification names at most %d devices.", maxDevices)
	}
	list := make([]pushDevice, len(devices))
	for i, d := range devices {
		if json.Unmarshal(d, &list[i]) != nil || list[i].Pushkey == "" || list[i].AppID == "" {
			return nil, mx.Errorf(mx.BadJSON, "Each device needs an app_id and a pushkey.")
		}
	}
	rejected = []string{}
	var failed error
	for i, d := range list {
		switch err := s.toDevice(ctx, n, devices[i], d, outside); {
		case errors.Is(err, errReject):
			if !slices.Contains(rejected, d.Pushkey) {
				rejected = append(rejected, d.Pushkey)
			}
		case err != nil && failed == nil:
			failed = err
		}
	}
	if failed != nil {
		return nil, failed
	}
	return rejected, nil
}

// errReject means that a pushkey leads nowhere, and will not.
var errReject = errors.New("the pushkey is rejected")

// toDevice brings a notification to one device. Errors: errReject; others mean that
// it may be tried again.
func (s *Service) toDevice(ctx context.Context, n map[string]json.RawMessage, raw json.RawMessage, d pushDevice, outside bool) error {
	if d.AppID == WebAppID {
		if outside || s.o.Web == nil {
			return errReject
		}
		return s.toBrowser(ctx, n, d)
	}
	u, err := url.Parse(d.Pushkey)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || len(d.Pushkey) > maxEndpoint {
		return errReject
	}
	own := s.o.Own(u)
	name := topicOf(u)
	if own && name == "" || !own && !s.o.Settings().Foreign {
		return errReject
	}
	body, err := pushBody(n, raw)
	if err != nil {
		return err
	}
	if !own {
		return s.toForeign(ctx, u, body)
	}
	_, err = s.publish(ctx, name, body, -1, outside)
	var p *problem
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		return errReject
	case errors.Is(err, errNobody):
		return &mx.Error{Code: mx.Unknown, Status: http.StatusBadGateway, Msg: "No phone has subscribed to this endpoint yet. Send it again later.", Err: err}
	case errors.As(err, &p) && p.after > 0:
		return errBusy(p.after)
	}
	return err
}

// essential is what remains of a notification that is too large for a push message:
// a client fetches the event by its ID anyway.
var essential = []string{"event_id", "room_id", "counts", "prio"}

// pushBody is the message for one device: the notification with no device but this
// one. Errors: TooLarge.
func pushBody(n map[string]json.RawMessage, device json.RawMessage) ([]byte, error) {
	m := make(map[string]any, len(n))
	for k, v := range n {
		m[k] = v
	}
	m["devices"] = []json.RawMessage{device}
	b, err := json.Marshal(map[string]any{"notification": m})
	if err != nil || len(b) <= maxMessage {
		return b, err
	}
	m = map[string]any{}
	for _, k := range essential {
		if v, ok := n[k]; ok {
			m[k] = v
		}
	}
	if b, err = json.Marshal(map[string]any{"notification": m}); err == nil && len(b) > maxMessage {
		return nil, mx.Errorf(mx.TooLarge, "Even without its content the notification has more than %d bytes.", maxMessage)
	}
	return b, err
}

// toForeign pushes to the endpoint of another push server.
func (s *Service) toForeign(ctx context.Context, u *url.URL, body []byte) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	unreachable := func(err error) error {
		return &mx.Error{Code: mx.Unknown, Status: http.StatusBadGateway, Msg: "The push server of the endpoint does not take the message. Send it again later.", Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return errReject
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("TTL", strconv.Itoa(int(s.keep().Seconds())))
	resp, err := s.forward.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the endpoint, which is a secret
		}
		return unreachable(fmt.Errorf("%s: %w", u.Host, err))
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	switch c := resp.StatusCode; {
	case c/100 == 2:
		return nil
	case c == http.StatusNotFound, c == http.StatusGone:
		return errReject
	case c == http.StatusTooManyRequests:
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			return errBusy(time.Duration(min(n, 3600)) * time.Second)
		}
		fallthrough
	default:
		return unreachable(fmt.Errorf("%s answered %d", u.Host, c))
	}
}

// toBrowser sends a notification of this server's pushers to a browser. It tells
// which event it is, and never more, whatever the pusher's format. A browser has to
// show something for each message, so one that only counts is not sent.
func (s *Service) toBrowser(ctx context.Context, n map[string]json.RawMessage, d pushDevice) error {
	if n["event_id"] == nil {
		return nil
	}
	m := map[string]json.RawMessage{}
	for _, k := range essential {
		if v, ok := n[k]; ok {
			m[k] = v
		}
	}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var prio string
	json.Unmarshal(n["prio"], &prio)
	err = s.o.Web.Send(ctx, subscription(d.Pushkey, d.Data), body, prio != "low", webTTL)
	var busy *webpush.Busy
	switch {
	case errors.Is(err, webpush.ErrGone):
		return errReject
	case errors.Is(err, webpush.ErrTooLarge):
		return nil // it will not be smaller next time
	case errors.As(err, &busy):
		return errBusy(busy.Wait)
	}
	return err
}

// webKey gives the built-in client what a browser needs to subscribe.
func (s *Service) webKey(ctx context.Context, _ *route.Request) (out struct {
	Key   string `json:"key"`
	AppID string `json:"app_id"`
}, err error) {
	if s.o.Web == nil {
		return out, mx.Errorf(mx.NotFound, "This server does not send to browsers.")
	}
	out.AppID = WebAppID
	out.Key, err = s.o.Web.PublicKey(ctx)
	return out, err
}
