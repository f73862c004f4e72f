package login

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"holdfast/identity/account"
)

// Errors of Phones whose cause is what a person entered.
var (
	ErrPhoneName   = errors.New("the phone's name is missing or too long")
	ErrPhoneDevice = errors.New("there is no such device")
	ErrManyPhones  = errors.New("there are as many phones as a person may have")
)

// Phones are the phones that fetch a person's notifications from the appliance.
type Phones interface {
	Phones(ctx context.Context, userID string) ([]Phone, error)
	// AddPhone makes one; with a device ID it ends with that device. Errors:
	// ErrPhoneName, ErrPhoneDevice, ErrManyPhones.
	AddPhone(ctx context.Context, userID, deviceID, name string) (NewPhone, error)
	// EndPhone ends one; one that is not there has ended already.
	EndPhone(ctx context.Context, userID string, id int64) error
}

// Phone is one of them.
type Phone struct {
	ID        int64
	Name      string
	DeviceID  string // "": it ends by itself only with the account
	LastSeen  time.Time
	Connected bool
}

// NewPhone is what the app on a new phone has to be told, once.
type NewPhone struct {
	Server, User, Password string
	QR                     template.HTML // the password as a drawing
}

// phoneView is a phone as the page shows it.
type phoneView struct {
	Phone
	Seen string
}

// phonesPage shows a person's phones.
func (p *Pages) phonesPage(w http.ResponseWriter, r *http.Request, status int, b account.Browser, v view) {
	list, err := p.Phones.Phones(r.Context(), b.User.UserID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	sessions, err := p.Sessions.Sessions(r.Context(), b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	l := lang(r)
	v.User, v.UserID = b.User, b.User.UserID
	for _, x := range list {
		seen := p.text(l, "phones.never")
		switch {
		case x.Connected:
			seen = p.text(l, "phones.connected")
		case !x.LastSeen.IsZero():
			seen = p.text(l, "phones.seen", "when", x.LastSeen.UTC().Format("2006-01-02 15:04 UTC"))
		}
		v.Phones = append(v.Phones, phoneView{x, seen})
	}
	for _, s := range sessions {
		if s.DeviceID == "" {
			continue
		}
		sv, err := p.sessionView(r, s)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		v.Sessions = append(v.Sessions, sv)
	}
	p.render(w, r, status, "phones", "", v)
}

func (p *Pages) showPhones(w http.ResponseWriter, r *http.Request) {
	if b, ok := p.signedIn(w, r); ok {
		p.phonesPage(w, r, http.StatusOK, b, view{})
	}
}

func (p *Pages) doAddPhone(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	l := lang(r)
	made, err := p.Phones.AddPhone(r.Context(), b.User.UserID, r.PostForm.Get("device"), r.PostForm.Get("name"))
	for e, key := range map[error]string{ErrPhoneName: "phones.badName", ErrPhoneDevice: "account.noDevice", ErrManyPhones: "phones.many"} {
		if errors.Is(err, e) {
			p.phonesPage(w, r, http.StatusBadRequest, b, view{Error: p.text(l, key)})
			return
		}
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	// The address that brought the person here works, as long as it is not this machine's alone.
	if o := p.Origin(r); strings.HasPrefix(o, "https://") && !strings.HasPrefix(o, "https://localhost") {
		made.Server = o
	}
	p.phonesPage(w, r, http.StatusOK, b, view{NewPhone: &made})
}

func (p *Pages) doEndPhone(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	id, err := strconv.ParseInt(r.PostForm.Get("phone"), 10, 64)
	if err != nil {
		p.message(w, r, http.StatusBadRequest, "badForm")
		return
	}
	if err := p.Phones.EndPhone(r.Context(), b.User.UserID, id); err != nil {
		p.fail(w, r, err)
		return
	}
	p.phonesPage(w, r, http.StatusOK, b, view{Notice: p.text(lang(r), "phones.ended")})
}
