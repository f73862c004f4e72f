package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/mail"
	"strings"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// What an e-mail address is proved for. A proof is of no use for anything else.
const (
	ProofRegister = "register" // of a new account
	ProofAdd      = "add"      // to an account
	ProofPassword = "password" // of an account's owner, who forgot the password
	ProofReset    = "reset"    // the same, on our own pages: whoever has the mail may use it
)

// Bounds of e-mail addresses and of their proofs.
const (
	ProofFor      = 4 * time.Hour // how long a mail's link and code are good
	provedFor     = time.Hour     // how long a proof may be used
	maxEmail      = 254           // bytes, RFC 5321
	maxEmails     = 10            // of an account
	mailsPerHour  = 5             // to one address
	mailLimitSpan = time.Hour
)

// Errors about e-mail addresses.
var (
	ErrEmail        = errors.New("identity: this is not an e-mail address")
	ErrEmailInUse   = errors.New("identity: the e-mail address belongs to an account")
	ErrEmailToken   = errors.New("identity: the e-mail token is wrong")
	ErrEmailExpired = errors.New("identity: the proof of the e-mail address has expired")
	ErrEmailProof   = errors.New("identity: the e-mail address is not proved")
	ErrEmails       = errors.New("identity: the account has as many e-mail addresses as it may")
	ErrEmailKept    = errors.New("identity: a directory says which e-mail address the account has")
)

// Email is an address of an account.
type Email struct {
	Address          string // canonical
	Validated, Added time.Time
}

// EmailRequest asks to prove an address.
type EmailRequest struct {
	Purpose  string
	Address  string // canonical
	Secret   string // of the client; together with the session's ID it may use the proof
	Attempt  int64  // a mail is sent for an attempt that is higher than those before
	NextLink string // where the browser goes afterwards; "": nowhere
}

// EmailTicket says what is to be sent for an EmailRequest.
type EmailTicket struct {
	SID   string
	Send  bool   // false: this attempt was answered already
	Token string // to be mailed; "": the address does not suit the purpose, and the mail says so
	Owner User   // whose address it is; zero: nobody's

	attempt, before int64
}

// EmailProof is the state of a proof.
type EmailProof struct {
	SID       string
	Purpose   string
	Address   string
	Owner     User // of an address that is proved for a password or reset
	NextLink  string
	Validated time.Time // zero: not yet
}

// CanonicalEmail is an address in the form in which it is stored and compared.
// Addresses are ASCII; their case is of no matter. Errors: ErrEmail.
// Spec: appendices#3pid-types
func CanonicalEmail(s string) (string, error) {
	if len(s) > maxEmail || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", ErrEmail
	}
	a, err := mail.ParseAddress(s)
	local, domain, _ := strings.Cut(s, "@")
	if err != nil || a.Name != "" || a.Address != s || len(local) > 64 || strings.ContainsAny(domain, "@[]") {
		return "", ErrEmail
	}
	return strings.ToLower(s), nil
}

// BeginEmail begins to prove an address, or goes on with it. Errors: *SlowDown.
func (a *Accounts) BeginEmail(ctx context.Context, r EmailRequest) (t EmailTicket, err error) {
	now := a.Now()
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		t = EmailTicket{attempt: r.Attempt}
		secret := Hash(r.Secret)
		var known bool
		if t.SID, t.before, known, err = loadProofAttempt(tx, r.Purpose, r.Address, secret, now); err != nil {
			return err
		}
		if known && r.Attempt <= t.before {
			return nil
		}
		if a.Limits {
			sent, oldest, err := countMails(tx, r.Address, now.Add(-mailLimitSpan))
			if err != nil {
				return err
			}
			if sent >= mailsPerHour {
				return &SlowDown{Wait: max(oldest.Add(mailLimitSpan).Sub(now), time.Minute)}
			}
		}
		if t.Owner, err = a.loadEmailOwner(tx, r.Address); err != nil {
			return err
		}
		t.Send = true
		if !known {
			t.SID, t.before = rand.Text(), r.Attempt-1
			if err := insertProof(tx, t, r, secret, now); err != nil {
				return err
			}
		} else if err := updateProofAttempt(tx, t.SID, r.Attempt, r.NextLink, 1); err != nil {
			return err
		}
		suits := t.Owner.ID == ""
		if ofOwner(r.Purpose) {
			suits = t.Owner.ID != "" && t.Owner.Err() == nil
		}
		if !suits {
			return nil
		}
		t.Token = rand.Text()
		return insertProofToken(tx, Hash(t.Token), t.SID)
	})
	return t, err
}

// ofOwner reports whether a proof of an address is for the account that has it.
func ofOwner(purpose string) bool { return purpose == ProofPassword || purpose == ProofReset }

// EmailNotSent takes a ticket back whose mail could not be sent, so that the same
// attempt may be made again.
func (a *Accounts) EmailNotSent(ctx context.Context, t EmailTicket) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		return undoProofAttempt(tx, t.SID, t.attempt, t.before)
	})
}

// EmailByToken finds a proof by what was mailed. Errors: ErrEmailToken, ErrEmailExpired.
func (a *Accounts) EmailByToken(ctx context.Context, sid, token string) (p EmailProof, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		p, _, err = a.loadProofByToken(q, sid, token)
		return err
	})
	return p, err
}

// SubmitEmail proves an address by what was mailed. secret is the client's, or nil
// when the person did it on the page of the mail. Errors: ErrEmailToken, ErrEmailExpired.
func (a *Accounts) SubmitEmail(ctx context.Context, sid string, secret *string, token string) (p EmailProof, err error) {
	now := a.Now()
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		var hash []byte
		if p, hash, err = a.loadProofByToken(tx, sid, token); err != nil {
			return err
		}
		if secret != nil && subtle.ConstantTimeCompare(hash, Hash(*secret)) != 1 {
			return ErrEmailToken
		}
		if !p.Validated.IsZero() {
			return nil
		}
		p.Validated = now
		return updateProofValidated(tx, sid, now, now.Add(provedFor))
	})
	return p, err
}

// ProvedEmail finds a proof that may be used. Errors: ErrEmailProof.
func (a *Accounts) ProvedEmail(ctx context.Context, purpose, sid, secret string) (p EmailProof, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		p, err = a.loadProved(q, purpose, sid, secret)
		return err
	})
	return p, err
}

// UseEmail uses a proof up. Errors: ErrEmailProof.
func (a *Accounts) UseEmail(ctx context.Context, purpose, sid, secret string) (p EmailProof, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		p, err = a.useProofTx(tx, purpose, sid, secret)
		return err
	})
	return p, err
}

func (a *Accounts) useProofTx(tx *store.Tx, purpose, sid, secret string) (EmailProof, error) {
	p, err := a.loadProved(tx, purpose, sid, secret)
	if err != nil {
		return p, err
	}
	return p, deleteProof(tx, sid)
}

// UseReset uses up what was mailed to somebody who forgot the password, and returns the
// account. No secret is asked for: the mail may be opened elsewhere than where it was
// asked for. Errors: ErrEmailToken, ErrEmailExpired.
func (a *Accounts) UseReset(ctx context.Context, sid, token string) (u User, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		p, _, err := a.loadProofByToken(tx, sid, token)
		if err != nil {
			return err
		}
		if p.Purpose != ProofReset || p.Owner.ID == "" {
			return ErrEmailToken
		}
		u = p.Owner
		return deleteProof(tx, sid)
	})
	return u, err
}

// AddEmail is AddEmailTx in a write of its own.
func (a *Accounts) AddEmail(ctx context.Context, id, purpose, sid, secret string) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error { return a.AddEmailTx(tx, id, purpose, sid, secret) })
}

// AddEmailTx gives an account the address of a proof, which is used up.
// Errors: ErrEmailProof, ErrEmailInUse, ErrEmails, ErrEmailKept.
func (a *Accounts) AddEmailTx(tx *store.Tx, id, purpose, sid, secret string) error {
	if err := a.emailsKept(tx, id); err != nil {
		return err
	}
	p, err := a.useProofTx(tx, purpose, sid, secret)
	if err != nil {
		return err
	}
	have, err := listEmails(tx, id)
	if err != nil {
		return err
	}
	for _, e := range have {
		if e.Address == p.Address {
			return nil
		}
	}
	if len(have) >= maxEmails {
		return ErrEmails
	}
	err = insertEmail(tx, p.Address, id, p.Validated, a.Now())
	if store.IsConflict(err) {
		return ErrEmailInUse
	}
	if err != nil {
		return err
	}
	return a.note(tx, "email.add", id, audit.Data{"address": p.Address})
}

// emailsKept refuses where the addresses follow a directory.
func (a *Accounts) emailsKept(q store.Querier, id string) error {
	if a.elsewhere == nil {
		return nil
	}
	kept, err := a.elsewhere.KeepsEmails(q, id)
	if err == nil && kept {
		err = ErrEmailKept
	}
	return err
}

// EmailDiffers reports whether FollowEmailTx would change the account's addresses; taken:
// another account has the address.
func (a *Accounts) EmailDiffers(q store.Querier, u User, address string) (differs, taken bool, err error) {
	if address, err = CanonicalEmail(address); err != nil {
		address = ""
	}
	have, err := listEmails(q, u.ID)
	if err != nil {
		return false, false, err
	}
	if address == "" || len(have) == 1 && have[0].Address == address {
		return len(have) > 0 && address == "", false, nil
	}
	owner, err := a.loadEmailOwner(q, address)
	taken = owner.ID != "" && owner.ID != u.ID
	return len(have) > 0 || !taken, taken, err
}

// FollowEmailTx makes the account's address the one that its directory has, "" for none.
// One that another account has is left there; taken says so, and the account has none.
func (a *Accounts) FollowEmailTx(tx *store.Tx, u User, address, directory string) (changed, taken bool, err error) {
	if address, err = CanonicalEmail(address); err != nil {
		address = "" // not one that mail can be sent to
	}
	have, err := listEmails(tx, u.ID)
	if err != nil {
		return false, false, err
	}
	has := false
	for _, e := range have {
		if e.Address == address {
			has = true
			continue
		}
		if err := deleteEmail(tx, u.ID, e.Address); err != nil {
			return false, false, err
		}
		if err := a.note(tx, "email.remove", u.ID, audit.Data{"address": e.Address, "directory": directory}); err != nil {
			return false, false, err
		}
		changed = true
	}
	if has || address == "" {
		return changed, false, nil
	}
	if owner, err := a.loadEmailOwner(tx, address); err != nil || owner.ID != "" {
		return changed, err == nil, err
	}
	if err := insertEmail(tx, address, u.ID, a.Now(), a.Now()); err != nil {
		return changed, false, err
	}
	return true, false, a.note(tx, "email.add", u.ID, audit.Data{"address": address, "directory": directory})
}

// RemoveEmail takes an address from an account; one that it does not have is no error.
// Errors: ErrEmailKept.
func (a *Accounts) RemoveEmail(ctx context.Context, id, address string) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		if err := a.emailsKept(tx, id); err != nil {
			return err
		}
		if err := a.note(tx, "email.remove", id, audit.Data{"address": address}); err != nil {
			return err
		}
		return deleteEmail(tx, id, address)
	})
}

// Emails lists an account's addresses, the first added first.
func (a *Accounts) Emails(ctx context.Context, id string) (out []Email, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		out, err = listEmails(q, id)
		return err
	})
	return out, err
}

// EmailOwner is whose address it is. Errors: ErrNoUser.
func (a *Accounts) EmailOwner(ctx context.Context, address string) (u User, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		u, err = a.loadEmailOwner(q, address)
		return err
	})
	if err == nil && u.ID == "" {
		err = ErrNoUser
	}
	return u, err
}

const selectEmailOwner = userColumns + `JOIN id_emails e ON e.user_id = u.id WHERE e.address = $1`

// loadEmailOwner is whose address it is; a zero User when it is nobody's.
func (a *Accounts) loadEmailOwner(q store.Querier, address string) (User, error) {
	u, err := a.scanUser(q.QueryRow(selectEmailOwner, address).Scan)
	if errors.Is(err, ErrNoUser) {
		return User{}, nil
	}
	return u, err
}

const selectEmails = `SELECT address, validated, added FROM id_emails WHERE user_id = $1 ORDER BY added, address`

func listEmails(q store.Querier, id string) (out []Email, err error) {
	rows, err := q.Query(selectEmails, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Email
		var validated, added int64
		if err := rows.Scan(&e.Address, &validated, &added); err != nil {
			return nil, err
		}
		e.Validated, e.Added = time.UnixMilli(validated), time.UnixMilli(added)
		out = append(out, e)
	}
	return out, rows.Err()
}

const insertEmailSQL = `INSERT INTO id_emails (address, user_id, validated, added) VALUES ($1, $2, $3, $4)`

func insertEmail(tx *store.Tx, address, id string, validated, now time.Time) error {
	_, err := tx.Exec(insertEmailSQL, address, id, validated.UnixMilli(), now.UnixMilli())
	return err
}

const deleteEmailSQL = `DELETE FROM id_emails WHERE user_id = $1 AND address = $2`

func deleteEmail(tx *store.Tx, id, address string) error {
	_, err := tx.Exec(deleteEmailSQL, id, address)
	return err
}

const deleteEmailsSQL = `DELETE FROM id_emails WHERE user_id = $1`

func deleteEmails(tx *store.Tx, id string) error {
	_, err := tx.Exec(deleteEmailsSQL, id)
	return err
}

const selectProofAttempt = `SELECT sid, attempt FROM id_email_proofs WHERE purpose = $1 AND address = $2 AND secret_hash = $3 AND expires > $4`

// loadProofAttempt finds the proof that a client asked for before; one that has
// expired makes room for another.
func loadProofAttempt(tx *store.Tx, purpose, address string, secret []byte, now time.Time) (sid string, attempt int64, known bool, err error) {
	err = tx.QueryRow(selectProofAttempt, purpose, address, secret, now.UnixMilli()).Scan(&sid, &attempt)
	if errors.Is(err, store.ErrNotFound) {
		_, err = tx.Exec(`DELETE FROM id_email_proofs WHERE purpose = $1 AND address = $2 AND secret_hash = $3`, purpose, address, secret)
		return "", 0, false, err
	}
	return sid, attempt, err == nil, err
}

const countMailsSQL = `SELECT coalesce(sum(sent), 0), coalesce(min(created), 0) FROM id_email_proofs WHERE address = $1 AND created > $2`

func countMails(q store.Querier, address string, since time.Time) (n int, oldest time.Time, err error) {
	var at int64
	err = q.QueryRow(countMailsSQL, address, since.UnixMilli()).Scan(&n, &at)
	return n, time.UnixMilli(at), err
}

const insertProofSQL = `INSERT INTO id_email_proofs (sid, purpose, address, secret_hash, user_id, next_link, attempt, sent, created, expires, validated)
VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, 0)`

func insertProof(tx *store.Tx, t EmailTicket, r EmailRequest, secret []byte, now time.Time) error {
	owner := ""
	if ofOwner(r.Purpose) {
		owner = t.Owner.ID
	}
	_, err := tx.Exec(insertProofSQL, t.SID, r.Purpose, r.Address, secret, owner, r.NextLink, r.Attempt, now.UnixMilli(), now.Add(ProofFor).UnixMilli())
	return err
}

const updateProofAttemptSQL = `UPDATE id_email_proofs SET attempt = $2, next_link = $3, sent = sent + $4 WHERE sid = $1`

func updateProofAttempt(tx *store.Tx, sid string, attempt int64, nextLink string, mails int) error {
	_, err := tx.Exec(updateProofAttemptSQL, sid, attempt, nextLink, mails)
	return err
}

const undoProofAttemptSQL = `UPDATE id_email_proofs SET attempt = $3, sent = sent - 1 WHERE sid = $1 AND attempt = $2`

func undoProofAttempt(tx *store.Tx, sid string, attempt, before int64) error {
	_, err := tx.Exec(undoProofAttemptSQL, sid, attempt, before)
	return err
}

const insertProofTokenSQL = `INSERT INTO id_email_tokens (hash, sid) VALUES ($1, $2)`

func insertProofToken(tx *store.Tx, hash []byte, sid string) error {
	_, err := tx.Exec(insertProofTokenSQL, hash, sid)
	return err
}

const proofColumns = `SELECT p.purpose, p.address, p.secret_hash, p.user_id, p.next_link, p.expires, p.validated FROM id_email_proofs p `

func (a *Accounts) scanProof(q store.Querier, sid string, scan func(...any) error) (p EmailProof, secret []byte, err error) {
	var owner string
	var expires, validated int64
	if err := scan(&p.Purpose, &p.Address, &secret, &owner, &p.NextLink, &expires, &validated); err != nil {
		return p, nil, err
	}
	p.SID = sid
	if validated != 0 {
		p.Validated = time.UnixMilli(validated)
	}
	if a.Now().UnixMilli() >= expires {
		return p, nil, ErrEmailExpired
	}
	if owner != "" {
		// The address may have changed hands since.
		if p.Owner, err = a.loadEmailOwner(q, p.Address); err == nil && (p.Owner.ID != owner || p.Owner.Err() != nil) {
			err = ErrEmailExpired
		}
	}
	return p, secret, err
}

const selectProofByToken = proofColumns + `JOIN id_email_tokens t ON t.sid = p.sid WHERE t.hash = $1 AND p.sid = $2`

func (a *Accounts) loadProofByToken(q store.Querier, sid, token string) (EmailProof, []byte, error) {
	if len(token) > 256 || len(sid) > 256 {
		return EmailProof{}, nil, ErrEmailToken
	}
	// People type it, too.
	hash := Hash(strings.ToUpper(strings.TrimSpace(token)))
	p, secret, err := a.scanProof(q, sid, q.QueryRow(selectProofByToken, hash, sid).Scan)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrEmailToken
	}
	return p, secret, err
}

const selectProof = proofColumns + `WHERE p.sid = $1 AND p.purpose = $2`

func (a *Accounts) loadProved(q store.Querier, purpose, sid, secret string) (EmailProof, error) {
	if len(sid) > 256 {
		return EmailProof{}, ErrEmailProof
	}
	p, hash, err := a.scanProof(q, sid, q.QueryRow(selectProof, sid, purpose).Scan)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrEmailExpired) ||
		err == nil && (p.Validated.IsZero() || subtle.ConstantTimeCompare(hash, Hash(secret)) != 1) {
		return EmailProof{}, ErrEmailProof
	}
	return p, err
}

const updateProofValidatedSQL = `UPDATE id_email_proofs SET validated = $2, expires = $3 WHERE sid = $1`

func updateProofValidated(tx *store.Tx, sid string, now, expires time.Time) error {
	_, err := tx.Exec(updateProofValidatedSQL, sid, now.UnixMilli(), expires.UnixMilli())
	return err
}

func deleteProof(tx *store.Tx, sid string) error {
	if _, err := tx.Exec(`DELETE FROM id_email_tokens WHERE sid = $1`, sid); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM id_email_proofs WHERE sid = $1`, sid)
	return err
}

// sweepEmails removes proofs that have expired.
func sweepEmails(tx *store.Tx, now time.Time) error {
	// A while longer, so that a late click is told that it is late, and mails count.
	if _, err := tx.Exec(`DELETE FROM id_email_proofs WHERE expires < $1`, now.Add(-24*time.Hour).UnixMilli()); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM id_email_tokens WHERE sid NOT IN (SELECT sid FROM id_email_proofs)`)
	return err
}
