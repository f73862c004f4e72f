package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// call is a request to a service.
type call struct {
	method string
	path   string     // escaped
	older  string     // its path in earlier drafts, or ""
	query  url.Values // or nil
	body   any        // or nil; json.RawMessage goes as it is
}

// maxAnswer bounds what is read of a service's answer, in bytes.
const maxAnswer = 1 << 20

// errTooLarge is an answer over maxAnswer.
var errTooLarge = errors.New("its answer is larger than 1 MiB")

// tryNewer is how long a service that knows the older paths only is asked there.
const tryNewer = time.Hour

// ask sends a request, and where the service does not know its path, sends it to
// the path of earlier drafts. Spec: as#legacy-routes
func (s *Service) ask(ctx context.Context, a *app, c call) (status int, answer []byte, err error) {
	old := a.legacy.Load()
	if c.older != "" && old != 0 && time.Now().Unix()-old < int64(tryNewer/time.Second) {
		return s.once(ctx, a, c.old())
	}
	status, answer, err = s.once(ctx, a, c)
	if err != nil || c.older == "" || !unknownPath(status, answer) {
		if err == nil && status/100 == 2 {
			a.legacy.Store(0)
		}
		return status, answer, err
	}
	st, ans, err := s.once(ctx, a, c.old())
	if err != nil || unknownPath(st, ans) {
		return status, answer, nil // the answer at the right path says more
	}
	if st/100 == 2 {
		a.legacy.Store(time.Now().Unix())
	}
	return st, ans, nil
}

// unknownPath reports whether an answer may mean that the path is not known.
// Something that is not there is also 404, with another code.
func unknownPath(status int, answer []byte) bool {
	switch status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusInternalServerError:
		return true
	case http.StatusNotFound:
		var e struct {
			Code string `json:"errcode"`
		}
		return json.Unmarshal(answer, &e) != nil || e.Code == "" || e.Code == "M_UNRECOGNIZED"
	}
	return false
}

// old is the request as earlier drafts have it. Those services look for the token
// in the address; others never see it there, where it would come into their logs.
func (c call) old() call {
	c.path = c.older
	q := url.Values{"access_token": {""}}
	for k, v := range c.query {
		q[k] = v
	}
	c.query = q
	return c
}

// once sends a request to one path.
func (s *Service) once(ctx context.Context, a *app, c call) (status int, answer []byte, err error) {
	var body io.Reader
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	u := a.URL + c.path
	if len(c.query) > 0 {
		q := url.Values{}
		for k, v := range c.query {
			q[k] = v
		}
		if q.Has("access_token") {
			q.Set("access_token", a.HSToken)
		}
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, u, body)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+a.HSToken)
	resp, err := s.o.Client.Do(req)
	if err != nil {
		// The address in the error may have the token.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if len(answer) > maxAnswer {
		return resp.StatusCode, nil, errTooLarge
	}
	return resp.StatusCode, answer, err
}
