package account

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// unsubscribePath is where the messages about what is unread are ended.
const unsubscribePath = "/_matrix/client/unstable/holdfast/email/unsubscribe"

// UnsubscribeLink is the address that ends the messages of a pusher.
func UnsubscribeLink(site string, id int64, secret string) string {
	return site + unsubscribePath + "?" + url.Values{"id": {strconv.FormatInt(id, 10)}, "secret": {secret}}.Encode()
}

// subscription finds what a link is about; end ends it. A non-nil answer says what is
// wrong with it.
func (s *Service) subscription(ctx context.Context, r *route.Request, end bool) (address string, answer http.HandlerFunc, err error) {
	gone := s.say(http.StatusNotFound, "unsubscribe.gone")
	id, err := strconv.ParseInt(r.Query("id"), 10, 64)
	if err != nil || s.o.Subscription == nil {
		return "", gone, nil
	}
	address, err = s.o.Subscription(ctx, id, r.Query("secret"), end)
	var refused *mx.Error
	if errors.As(err, &refused) {
		return "", gone, nil
	}
	return address, nil, err
}

// unsubscribePage asks whether the messages shall end. Looking at it changes nothing:
// mail programs and scanners follow links.
func (s *Service) unsubscribePage(ctx context.Context, r *route.Request) (any, error) {
	address, answer, err := s.subscription(ctx, r, false)
	if answer != nil || err != nil {
		return answer, err
	}
	return page{Title: s.text("identity.unsubscribe.title"), Text: strings.ReplaceAll(s.text("identity.unsubscribe.text"), "{address}", address),
		Submit: s.text("identity.unsubscribe.submit")}.show(http.StatusOK), nil
}

// unsubscribe ends the messages: by the page, or by a mail program that has a button
// for it (RFC 8058), which knows no session and sends from anywhere. The secret alone
// decides.
func (s *Service) unsubscribe(ctx context.Context, r *route.Request) (any, error) {
	_, answer, err := s.subscription(ctx, r, true)
	if answer != nil || err != nil {
		return answer, err
	}
	return s.say(http.StatusOK, "unsubscribe.done"), nil
}
