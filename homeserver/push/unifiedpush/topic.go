package unifiedpush

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// problem is an error as ntfy's clients know it.
type problem struct {
	Code  int    `json:"code"`
	HTTP  int    `json:"http"`
	Msg   string `json:"error"`
	after time.Duration
}

func (p *problem) Error() string { return p.Msg }

// The errors. Their codes are those of ntfy where it has one.
var (
	errNoPage       = &problem{40401, http.StatusNotFound, "There is no such page. This server takes pushes for the topics of UnifiedPush, whose names begin with up.", 0}
	errTopic        = &problem{40009, http.StatusBadRequest, "The name of a topic is up and 12 to 62 letters, digits, - or _.", 0}
	errManyTopics   = &problem{40009, http.StatusBadRequest, "A request names at most " + strconv.Itoa(maxTopics) + " topics.", 0}
	errSince        = &problem{40008, http.StatusBadRequest, "since is all, none, latest, a time in seconds since 1970, a duration such as 10m, or the ID of a message.", 0}
	errNotWebSocket = &problem{40011, http.StatusBadRequest, "This address takes WebSockets only. Use /json for a stream by plain HTTP.", 0}
	errUnauthorized = &problem{40101, http.StatusUnauthorized, "User name or password is missing or wrong. Make one for this phone on your account's page and enter it in the app.", 0}
	errForbidden    = &problem{40301, http.StatusForbidden, "This topic belongs to somebody else.", 0}
	errNotUp        = &problem{40301, http.StatusForbidden, "This server has the topics of UnifiedPush only, whose names begin with up. Choose it in the app as the server of UnifiedPush.", 0}
	errLocked       = &problem{40301, http.StatusForbidden, "This account is locked or closed. Ask your administrator.", 0}
	errGone         = &problem{40401, http.StatusNotFound, "This endpoint has ended.", 0}
	errMethod       = &problem{40001, http.StatusMethodNotAllowed, "Use POST or PUT to publish, GET to subscribe.", 0}
	errTooLarge     = &problem{41301, http.StatusRequestEntityTooLarge, "A push message has at most " + strconv.Itoa(maxMessage) + " bytes.", 0}
	errBody         = &problem{40001, http.StatusBadRequest, "The message did not arrive complete. Send it again.", 0}
	errPhoneTopics  = &problem{42904, http.StatusTooManyRequests, "This phone has " + strconv.Itoa(maxTopics) + " topics already. Unused ones end after 90 days; make the phone anew on your account's page to begin afresh.", 0}
	errConnections  = &problem{42903, http.StatusTooManyRequests, "The server has as many connections as it takes. Try again later.", 0}
	errNobody       = &problem{50701, http.StatusInsufficientStorage, "No phone has subscribed to this topic yet. Send it again later.", 0}
)

const (
	minTopic = 14 // "up" and the twelve characters that the ntfy app makes: 71 bits
	maxTopic = 64
)

// validTopic reports whether a name is that of a topic of UnifiedPush.
func validTopic(s string) bool {
	return len(s) >= minTopic && len(s) <= maxTopic && s[:2] == "up" && topicChars(s)
}

func topicChars(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// parseTopics reads a list of topics. Errors: errTopic, errManyTopics, errNotUp.
func parseTopics(s string) ([]string, error) {
	if strings.Count(s, ",") >= maxTopics {
		return nil, errManyTopics
	}
	names := strings.Split(s, ",")
	seen := make(map[string]bool, len(names))
	out := names[:0]
	for _, n := range names {
		if !validTopic(n) {
			if topicChars(n) && !strings.HasPrefix(n, "up") {
				return nil, errNotUp
			}
			return nil, errTopic
		}
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out, nil
}

// How a topic is subscribed to, the last part of its path.
var streams = map[string]bool{"json": true, "sse": true, "raw": true, "ws": true}

// Serves reports whether a path is the push server's.
func Serves(path string) bool {
	if path == "/v1" || strings.HasPrefix(path, "/v1/") {
		return true
	}
	first, rest, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case !more:
		return looksUp(first)
	case !streams[rest] && rest != "auth":
		return false
	case looksUp(first):
		return true
	}
	switch first { // the web client's own
	case "", "api", "assets", "chat", "console", "element-call", "settings", "setup":
		return false
	}
	return topicChars(strings.ReplaceAll(first, ",", "")) // a topic of ntfy that we do not have
}

// looksUp reports whether somebody means topics of UnifiedPush.
func looksUp(s string) bool {
	return strings.HasPrefix(s, "up") && (len(s) >= minTopic || strings.Contains(s, ",")) && topicChars(strings.ReplaceAll(s, ",", ""))
}

// Streams reports whether a request waits for messages.
func Streams(path string) bool {
	i := strings.LastIndexByte(path, '/')
	return i > 0 && streams[path[i+1:]] && Serves(path)
}

// topicOf is the topic that an endpoint's URL names, "" for none.
func topicOf(u *url.URL) string {
	name := strings.TrimPrefix(u.Path, "/")
	if validTopic(name) {
		return name
	}
	return ""
}

// since says from where on messages are wanted.
type since struct {
	none, latest bool
	id           string
	time         int64 // ms; 0: all
	last         int64 // number of the newest message when the request came
}

// parseSince reads the parameter. Errors: errSince.
func parseSince(s string, poll bool, now time.Time) (out since, err error) {
	switch {
	case s == "" && poll, s == "all":
		return out, nil
	case s == "" || s == "none":
		return since{none: true}, nil
	case s == "latest":
		return since{latest: true}, nil
	case len(s) == messageID && topicChars(s):
		return since{id: s}, nil
	case len(s) > 24:
		return out, errSince
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 || n > 1<<40 {
			return out, errSince
		}
		return since{time: n * 1000}, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n <= 36500 {
			d = time.Duration(n) * 24 * time.Hour
		}
	}
	if err != nil || d <= 0 {
		return out, errSince
	}
	return since{time: max(1, now.Add(-d).UnixMilli())}, nil
}

// messageID is the length of a message's ID.
const messageID = 12

// param is a parameter of a subscription, in the query or as a header.
func param(r *http.Request, q url.Values, names ...string) string {
	for _, n := range names {
		if v := q.Get(n); v != "" {
			return v
		}
		if v := r.Header.Get("X-" + n); v != "" {
			return v
		}
	}
	return ""
}

func isTrue(s string) bool {
	return s == "1" || strings.EqualFold(s, "true") || strings.EqualFold(s, "yes")
}
