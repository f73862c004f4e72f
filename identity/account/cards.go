package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/store"
	"holdfast/store/audit"
)

// A card is an invite or a link that is printed: its token is a code that can be typed,
// and it may need a PIN that is handed out apart from it. Cards are made in batches.

// What the cards of a batch are for.
const (
	CardInvite   = "invite" // makes an account
	CardEnrol    = LinkEnrol
	CardRecovery = LinkRecovery
)

// What became of a card.
const (
	CardOpen      = "open"
	CardUsed      = "used"
	CardExpired   = "expired"
	CardWithdrawn = "withdrawn"
)

// Bounds of cards.
const (
	// MaxCards is the most in one batch.
	MaxCards = 1000
	// maxWrongPINs withdraw a card: of a million PINs that leaves a thief one chance in a
	// hundred thousand.
	maxWrongPINs  = 10
	freeWrongPINs = 3
	maxBatchName  = 128
	maxBatches    = 500 // that are listed
	pinDigits     = 6
	codeLength    = 16 // characters of five bits: nobody guesses one before it expires
)

// Errors about cards.
var (
	// ErrPIN: the card needs a PIN, and it was another, or none.
	ErrPIN = errors.New("identity: this is not the card's PIN")
	// ErrNoCard: there is no such batch or card.
	ErrNoCard = errors.New("identity: there is no such batch or card")
	// ErrBatchName: a batch has a name.
	ErrBatchName = errors.New("identity: the name of a batch has 1 to 128 bytes and no control characters")
	// ErrCards: a batch has 1 to MaxCards cards.
	ErrCards = errors.New("identity: a batch has 1 to 1,000 cards")
	// ErrCardTime: what is printed does not last for ever.
	ErrCardTime = errors.New("identity: invites on cards last for at most a year, links to accounts for 30 days")
	// ErrReprint: of what was to be printed again nothing can be.
	ErrReprint = errors.New("identity: these cards were used or withdrawn")
	// ErrReprintPINs: whoever prints cards again must take their PINs, if they have some.
	ErrReprintPINs = errors.New("identity: whether the cards of a batch need PINs stays as it was")
	// ErrReprintTime: the batch has expired, and nobody said how long new cards last.
	ErrReprintTime = errors.New("identity: the batch has expired: say how long new cards last")
	// ErrCardSelf: nobody gets around their own second factor.
	ErrCardSelf = errors.New("identity: nobody makes a recovery card for themselves")
)

// CardError is what is in the way of one person's card.
type CardError struct {
	User string
	Err  error
}

func (e *CardError) Error() string { return e.User + ": " + e.Err.Error() }
func (e *CardError) Unwrap() error { return e.Err }

// NewBatch describes cards to make.
type NewBatch struct {
	Name      string
	Kind      string   // CardInvite, CardEnrol or CardRecovery
	Count     int      // of CardInvite
	Users     []string // user IDs or names, of the others: whose cards
	Roles     Roles    // of CardInvite, as NewInvite
	Groups    []string
	ExpiresIn time.Duration
	PINs      bool
}

// Batch are cards that were made together.
type Batch struct {
	ID        string
	Name      string
	Kind      string
	PINs      bool
	Roles     Roles
	Groups    []string // names
	Created   time.Time
	Expires   time.Time
	CreatedBy string // user ID; "": the command line

	// How many of its cards are what.
	Open, Used, Expired, Withdrawn int

	Cards []Card // only from CreateBatch and Batch
}

// Card is one of a batch.
type Card struct {
	ID     string
	Number int
	State  string
	// UserID and DisplayName are of whose it is, or who used it; "": nobody yet.
	UserID, DisplayName string

	Code, PIN string // only from CreateBatch: the database has their hashes
}

// ShowCode writes a code as it is printed.
func ShowCode(code string) string {
	var b strings.Builder
	for i := 0; i < len(code); i += 4 {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(code[i:min(i+4, len(code))])
	}
	return b.String()
}

// ParseCode reads a code as it was typed: in any case, with any separators, and with
// letters for the digits that look like them. It is false for what can be none.
func ParseCode(typed string) (string, bool) {
	if len(typed) > 4*codeLength {
		return "", false
	}
	var b strings.Builder
	for _, r := range strings.ToUpper(typed) {
		switch {
		case unicode.IsSpace(r) || strings.ContainsRune("-–—.", r):
			continue
		case r == 'O':
			r = '0'
		case r == 'I' || r == 'L':
			r = '1'
		case !strings.ContainsRune(crockford, r):
			return "", false
		}
		b.WriteRune(r)
	}
	return b.String(), b.Len() == codeLength
}

func newCode() string {
	b := make([]byte, codeLength)
	rand.Read(b)
	for i := range b {
		b[i] = crockford[b[i]&31]
	}
	return string(b)
}

func newPIN() (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%0*d", pinDigits, n), nil
}

// pinMAC is how a PIN is kept. Who has the database knows neither the code nor the key,
// so that there is nothing to try a million PINs against.
func (a *Accounts) pinMAC(code, pin string) []byte {
	key := hmac.New(sha256.New, a.Key)
	key.Write([]byte("pins of cards"))
	m := hmac.New(sha256.New, key.Sum(nil))
	m.Write([]byte(code + "\x00" + pin))
	return m.Sum(nil)
}

const (
	insertBatch = `INSERT INTO id_batches (id, name, kind, pins, created, expires, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	insertCard  = `INSERT INTO id_cards (id, batch, number, user_id, pin, wrong) VALUES ($1, $2, $3, $4, $5, 0)`
)

// CreateBatch makes cards, all or none. Who asks is in the context. Their codes and PINs
// are known only now. Errors: ErrBatchName, ErrCards, ErrCardTime, those of CreateInvite;
// *CardError of ErrNoUser, ErrCardSelf, and those of CreateLinkTx.
func (a *Accounts) CreateBatch(ctx context.Context, n NewBatch) (b Batch, err error) {
	n.Name = strings.TrimSpace(n.Name)
	if n.Name == "" || len(n.Name) > maxBatchName || !utf8.ValidString(n.Name) || strings.ContainsFunc(n.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return Batch{}, ErrBatchName
	}
	if n.Kind == CardInvite {
		n.Users = nil
	} else {
		n.Count, n.Roles, n.Groups = len(n.Users), 0, nil
	}
	if n.Count < 1 || n.Count > MaxCards {
		return Batch{}, ErrCards
	}
	if n.ExpiresIn < time.Second || n.ExpiresIn > longestCard(n.Kind) {
		return Batch{}, ErrCardTime
	}
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		b, err = a.createBatchTx(ctx, tx, n)
		return err
	})
	if err != nil {
		return Batch{}, err
	}
	return b, nil
}

// longestCard is how long cards last at most.
func longestCard(kind string) time.Duration {
	if kind == CardInvite {
		return maxInviteExpiry
	}
	return maxLinkExpiry
}

func (a *Accounts) createBatchTx(ctx context.Context, tx *store.Tx, n NewBatch) (Batch, error) {
	if err := a.mayInvite(ctx, tx, n.Roles); err != nil {
		return Batch{}, err
	}
	now := a.Now()
	b := Batch{ID: NewULID(now), Name: n.Name, Kind: n.Kind, PINs: n.PINs, Roles: n.Roles, Groups: []string{}, Created: now, Expires: now.Add(n.ExpiresIn),
		CreatedBy: ActorOf(ctx).UserID, Open: n.Count}
	if _, err := tx.Exec(insertBatch, b.ID, b.Name, b.Kind, b.PINs, now.UnixMilli(), b.Expires.UnixMilli(), b.CreatedBy); err != nil {
		return b, err
	}
	for i := range n.Count {
		name := ""
		if n.Kind != CardInvite {
			name = n.Users[i]
		}
		c, err := a.newCardTx(ctx, tx, &b, n, name)
		if err != nil {
			return b, err
		}
		c.Number = i + 1
		if _, err := tx.Exec(insertCard, c.ID, b.ID, c.Number, c.user, c.mac); err != nil {
			return b, err
		}
		b.Cards = append(b.Cards, c.Card)
	}
	return b, a.Audit.Tx(ctx, tx, audit.Event{Name: "cards.create", Target: b.ID, Data: audit.Data{"name": b.Name, "kind": b.Kind, "cards": n.Count,
		"roles": b.Roles.Names(), "groups": b.Groups, "pins": b.PINs, "expires": b.Expires.UTC().Format(time.RFC3339)}})
}

// newCard is a card whose code was just made.
type newCard struct {
	Card
	user string // ULID of whose it is
	mac  any    // of its PIN; nil: it needs none
}

// newCardTx makes a card's code and PIN, and what the code opens: an invite of what n
// gives, or a link to the account of that name.
func (a *Accounts) newCardTx(ctx context.Context, tx *store.Tx, b *Batch, n NewBatch, name string) (c newCard, err error) {
	c.State, c.Code = CardOpen, newCode()
	if n.Kind == CardInvite {
		inv, err := a.createInviteTx(ctx, tx, NewInvite{Roles: n.Roles, Groups: n.Groups, ExpiresIn: n.ExpiresIn}, c.Code)
		if err != nil {
			return c, err
		}
		c.ID, b.Groups = inv.ID, inv.Groups
	} else {
		l, err := a.cardLinkTx(ctx, tx, n, name, c.Code)
		if err != nil {
			return c, &CardError{name, err}
		}
		c.ID, c.UserID, c.DisplayName, c.user = l.ID, l.User.UserID, l.User.DisplayName, l.User.ID
	}
	if n.PINs {
		if c.PIN, err = newPIN(); err != nil {
			return c, err
		}
		c.mac = a.pinMAC(c.Code, c.PIN)
	}
	return c, nil
}

func (a *Accounts) cardLinkTx(ctx context.Context, tx *store.Tx, n NewBatch, name, code string) (Link, error) {
	l, own := a.Localpart(name)
	if !own {
		return Link{}, ErrNoUser
	}
	u, err := a.LoadByLocalpart(tx, l)
	if err != nil {
		return Link{}, err
	}
	if n.Kind == CardRecovery && u.UserID == ActorOf(ctx).UserID {
		return Link{}, ErrCardSelf
	}
	return a.createLinkTx(ctx, tx, u, n.Kind, n.ExpiresIn, code)
}

// Reprint asks for new cards in the place of some.
type Reprint struct {
	// ID is of a card, used ones excepted, or of a batch: all of it that are open, or have
	// expired.
	ID string
	// ExpiresIn is how long the new ones last; 0: until the day that their batch has.
	ExpiresIn time.Duration
	PINs      bool // who prints them takes PINs; as the batch has them
}

// Reprint makes new codes, and PINs, for cards in the place of theirs, which end. Their
// numbers stay. The batch that it returns has those cards alone. Who asks is in the
// context. Errors: ErrNoCard, ErrReprint, ErrReprintPINs, ErrReprintTime, and as CreateBatch.
func (a *Accounts) Reprint(ctx context.Context, n Reprint) (b Batch, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		b, err = a.reprintTx(ctx, tx, n)
		return err
	})
	if err != nil {
		return Batch{}, err
	}
	return b, nil
}

const (
	batchOf     = `SELECT batch FROM id_cards WHERE batch = $1 OR id = $1 LIMIT 1`
	replaceCard = `UPDATE id_cards SET id = $2, user_id = $3, pin = $4, wrong = 0 WHERE id = $1`
	endInvite   = `DELETE FROM id_invites WHERE id = $1`
	endLink     = `UPDATE id_links SET revoked = 1 WHERE id = $1`
	prolong     = `UPDATE id_batches SET expires = max(expires, $2) WHERE id = $1`
)

func (a *Accounts) reprintTx(ctx context.Context, tx *store.Tx, r Reprint) (Batch, error) {
	var id string
	if err := tx.QueryRow(batchOf, r.ID).Scan(&id); errors.Is(err, store.ErrNotFound) {
		return Batch{}, ErrNoCard
	} else if err != nil {
		return Batch{}, err
	}
	b, err := a.loadBatch(tx, id)
	if err != nil {
		return b, err
	}
	old := slices.DeleteFunc(b.Cards, func(c Card) bool {
		if r.ID == b.ID {
			return c.State != CardOpen && c.State != CardExpired
		}
		return c.ID != r.ID || c.State == CardUsed
	})
	now := a.Now()
	n := NewBatch{Kind: b.Kind, Roles: b.Roles, Groups: b.Groups, ExpiresIn: r.ExpiresIn, PINs: b.PINs}
	if n.ExpiresIn == 0 {
		n.ExpiresIn = b.Expires.Sub(now)
	}
	switch {
	case len(old) == 0:
		return Batch{}, ErrReprint
	case r.PINs != b.PINs:
		return Batch{}, ErrReprintPINs
	case r.ExpiresIn == 0 && n.ExpiresIn < time.Second:
		return Batch{}, ErrReprintTime
	case n.ExpiresIn < time.Second || n.ExpiresIn > longestCard(b.Kind):
		return Batch{}, ErrCardTime
	}
	b.Expires, b.Cards = now.Add(n.ExpiresIn), nil
	if _, err := tx.Exec(prolong, b.ID, b.Expires.UnixMilli()); err != nil {
		return b, err
	}
	for _, was := range old {
		for _, q := range []string{endInvite, endLink} {
			if _, err := tx.Exec(q, was.ID); err != nil {
				return b, err
			}
		}
		c, err := a.newCardTx(ctx, tx, &b, n, was.UserID)
		if err != nil {
			return b, err
		}
		c.Number = was.Number
		if _, err := tx.Exec(replaceCard, was.ID, c.ID, c.user, c.mac); err != nil {
			return b, err
		}
		b.Cards = append(b.Cards, c.Card)
	}
	d := audit.Data{"name": b.Name, "kind": b.Kind, "cards": len(b.Cards), "roles": b.Roles.Names(), "groups": b.Groups, "expires": b.Expires.UTC().Format(time.RFC3339)}
	if r.ID != b.ID {
		d["number"] = old[0].Number
	}
	return b, a.Audit.Tx(ctx, tx, audit.Event{Name: "cards.reprint", Target: b.ID, Data: d})
}

// Of what a card is, its invite or link says what became of it.
const (
	fromCards = ` FROM id_batches b JOIN id_cards c ON c.batch = b.id LEFT JOIN id_invites i ON i.id = c.id LEFT JOIN id_links l ON l.id = c.id `
	cardState = `CASE WHEN coalesce(i.uses_left = 0, l.used <> 0) THEN 'used' WHEN coalesce(i.revoked, l.revoked, 1) THEN 'withdrawn'
WHEN coalesce(i.expires, l.expires, b.expires) <= $1 THEN 'expired' ELSE 'open' END`
	batchColumns = `SELECT b.id, b.name, b.kind, b.pins, b.created, b.expires, b.created_by, coalesce(max(i.roles), ''), coalesce(max(i.group_ids), ''),
sum(` + cardState + ` = 'open'), sum(` + cardState + ` = 'used'), sum(` + cardState + ` = 'expired'), sum(` + cardState + ` = 'withdrawn')` + fromCards
	selectBatches = batchColumns + `GROUP BY b.id ORDER BY b.id DESC LIMIT $2`
	selectBatch   = batchColumns + `WHERE b.id = $2 GROUP BY b.id`
	selectCards   = `SELECT c.id, c.number, c.user_id, ` + cardState + fromCards + `WHERE b.id = $2 ORDER BY c.number`
	selectPIN     = `SELECT pin, wrong FROM id_cards WHERE id = $1`
	countPIN      = `UPDATE id_cards SET wrong = wrong + 1 WHERE id = $1`
	cardUsedBy    = `UPDATE id_cards SET user_id = $2 WHERE id = $1`

	cardsOf       = `(SELECT id FROM id_cards WHERE batch = $1 OR id = $1)`
	revokeInvites = `UPDATE id_invites SET revoked = 1 WHERE revoked = 0 AND uses_left > 0 AND id IN ` + cardsOf
	revokeSome    = `UPDATE id_links SET revoked = 1 WHERE revoked = 0 AND used = 0 AND id IN ` + cardsOf

	oldBatches   = `(SELECT id FROM id_batches WHERE expires < $1)`
	sweepInvites = `DELETE FROM id_invites WHERE id IN (SELECT id FROM id_cards WHERE batch IN ` + oldBatches + `)`
	sweepCards   = `DELETE FROM id_cards WHERE batch IN ` + oldBatches
	sweepBatches = `DELETE FROM id_batches WHERE expires < $1`
)

// Batches lists the batches, newest first.
func (a *Accounts) Batches(ctx context.Context) (out []Batch, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		out, err = a.scanBatches(q, selectBatches, maxBatches)
		return err
	})
	return out, err
}

func (a *Accounts) scanBatches(q store.Querier, query string, arg any) ([]Batch, error) {
	groups, err := scanGroups(q, groupColumns)
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(query, a.Now().UnixMilli(), arg)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Batch{}
	for rows.Next() {
		var (
			b                Batch
			created, expires int64
			roles, ids       string
		)
		if err := rows.Scan(&b.ID, &b.Name, &b.Kind, &b.PINs, &created, &expires, &b.CreatedBy, &roles, &ids, &b.Open, &b.Used, &b.Expired, &b.Withdrawn); err != nil {
			return nil, err
		}
		b.Created, b.Expires = time.UnixMilli(created), time.UnixMilli(expires)
		b.Roles, b.Groups = readRoles(roles), namesOf(groups, strings.Fields(ids))
		out = append(out, b)
	}
	return out, rows.Err()
}

// Batch is a batch with its cards. Errors: ErrNoCard.
func (a *Accounts) Batch(ctx context.Context, id string) (b Batch, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		b, err = a.loadBatch(q, id)
		return err
	})
	return b, err
}

func (a *Accounts) loadBatch(q store.Querier, id string) (b Batch, err error) {
	all, err := a.scanBatches(q, selectBatch, id)
	if err != nil {
		return b, err
	}
	if len(all) == 0 {
		return b, ErrNoCard
	}
	b = all[0]
	owners := map[int]string{}
	rows, err := q.Query(selectCards, a.Now().UnixMilli(), id)
	if err != nil {
		return b, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			c    Card
			user string
		)
		if err := rows.Scan(&c.ID, &c.Number, &user, &c.State); err != nil {
			return b, err
		}
		if user != "" {
			owners[len(b.Cards)] = user
		}
		b.Cards = append(b.Cards, c)
	}
	if err := rows.Err(); err != nil {
		return b, err
	}
	for i, id := range owners {
		u, err := a.LoadByID(q, id)
		if errors.Is(err, ErrNoUser) {
			continue
		}
		if err != nil {
			return b, err
		}
		b.Cards[i].UserID, b.Cards[i].DisplayName = u.UserID, u.DisplayName
	}
	return b, nil
}

// RevokeCards withdraws a card, or all of a batch that are open, and says how many those
// were. Errors: ErrNoCard.
func (a *Accounts) RevokeCards(ctx context.Context, id string) (n int, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		n, err = a.revokeCardsTx(ctx, tx, id, "")
		return err
	})
	return n, err
}

const selectAnyCard = `SELECT count(*) FROM id_cards WHERE batch = $1 OR id = $1`

func (a *Accounts) revokeCardsTx(ctx context.Context, tx *store.Tx, id, why string) (int, error) {
	var there int
	if err := tx.QueryRow(selectAnyCard, id).Scan(&there); err != nil {
		return 0, err
	}
	if there == 0 {
		return 0, ErrNoCard
	}
	total := 0
	for _, q := range []string{revokeInvites, revokeSome} {
		n, err := tx.Exec(q, id)
		if err != nil {
			return 0, err
		}
		total += int(n)
	}
	d := audit.Data{"cards": total}
	if why != "" {
		d["reason"] = why
	}
	return total, a.Audit.Tx(ctx, tx, audit.Event{Name: "cards.revoke", Target: id, Data: d})
}

// needsPIN reports whether an invite or a link is a card with a PIN.
func needsPIN(q store.Querier, id string) (bool, error) {
	var pin []byte
	err := q.QueryRow(selectPIN, id).Scan(&pin, new(int))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return pin != nil, err
}

// checkPIN refuses who does not know the PIN of a card, slows guesses down, and withdraws
// the card after too many. None at all is refused and does not count. Errors: ErrPIN,
// *SlowDown.
func (a *Accounts) checkPIN(ctx context.Context, id, code, pin string) error {
	pin = strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, pin)
	if pin == "" {
		return ErrPIN
	}
	ps := []place{{Hash("pin\x00" + id), freeWrongPINs, maxWait}}
	done, err := a.attempt(ctx, ps)
	if err != nil {
		return err
	}
	defer done()
	right := false
	// Looked at where it is counted: of many at once none is for free.
	err = a.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		var (
			mac   []byte
			wrong int
		)
		if err := tx.QueryRow(selectPIN, id).Scan(&mac, &wrong); err != nil {
			return err
		}
		right = wrong < maxWrongPINs && hmac.Equal(mac, a.pinMAC(code, pin))
		if right || wrong >= maxWrongPINs {
			return nil
		}
		if _, err := tx.Exec(countPIN, id); err != nil {
			return err
		}
		who := strangerOr(audit.WhoOf(tx.Context()))
		if err := a.Audit.Bounded(tx.Context(), tx, "pin|"+id, audit.Event{Name: "cards.pin", Actor: who, Target: id}); err != nil || wrong+1 < maxWrongPINs {
			return err
		}
		_, err := a.revokeCardsTx(audit.As(tx.Context(), who), tx, id, "wrong PINs")
		return err
	})
	if err != nil || right {
		return err
	}
	if err := a.failed(ctx, ps); err != nil {
		return err
	}
	return ErrPIN
}
