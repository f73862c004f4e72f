package admin

import (
	"slices"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// query reads query parameters and keeps the first error.
type query struct {
	r   *route.Request
	err error
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = mx.Errorf(mx.InvalidParam, format, args...)
	}
}

// number is a whole number that is not negative.
func (q *query) number(name string, def int64) int64 {
	s := q.r.Query(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		q.fail("%s must be a whole number that is not negative.", name)
		return def
	}
	return n
}

// flag is true or false, nil where it is not given.
func (q *query) flag(name string) *bool {
	s := q.r.Query(name)
	switch s {
	case "":
		return nil
	case "true", "false":
		v := s == "true"
		return &v
	}
	q.fail("%s must be true or false.", name)
	return nil
}

func (q *query) flagOr(name string, def bool) bool {
	if v := q.flag(name); v != nil {
		return *v
	}
	return def
}

// oneOf is one of the values, the first where it is not given.
func (q *query) oneOf(name string, values ...string) string {
	s := q.r.Query(name)
	if s == "" {
		return values[0]
	}
	if !slices.Contains(values, s) {
		q.fail("%s cannot be %.80q.", name, s)
		return values[0]
	}
	return s
}

// Bounds of one answer.
const (
	defaultPage = 100
	maxPage     = 5000
)

// page is which part of a list is asked for: how many are left out, and how many given.
func (q *query) page() (from, limit int) {
	f, l := q.number("from", 0), q.number("limit", defaultPage)
	return int(min(f, 1<<40)), int(min(l, maxPage))
}

// cut takes a page out of a list. next is where the next one begins, 0 for none.
func cut[T any](list []T, from, limit int) (part []T, next int) {
	from = min(from, len(list))
	to := min(from+limit, len(list))
	if to < len(list) && to > from {
		next = to
	}
	return list[from:to], next
}
