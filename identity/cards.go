package identity

import (
	"context"

	"holdfast/identity/account"
)

// Cards, under the names that callers use.
type (
	NewBatch  = account.NewBatch
	Batch     = account.Batch
	Card      = account.Card
	CardError = account.CardError
	Reprint   = account.Reprint
)

// What the cards of a batch are for.
const (
	CardInvite   = account.CardInvite
	CardEnrol    = account.CardEnrol
	CardRecovery = account.CardRecovery
)

// ShowCode writes a card's code as it is printed.
func ShowCode(code string) string { return account.ShowCode(code) }

// MaxCards is the most in one batch.
const MaxCards = account.MaxCards

// Errors about cards.
var (
	ErrNoCard    = account.ErrNoCard
	ErrBatchName = account.ErrBatchName
	ErrCards     = account.ErrCards
	ErrCardTime  = account.ErrCardTime
	ErrCardSelf  = account.ErrCardSelf

	ErrReprint     = account.ErrReprint
	ErrReprintPINs = account.ErrReprintPINs
	ErrReprintTime = account.ErrReprintTime
)

// CreateBatch makes cards, all or none; who asks is in the context (WithActor). Their
// codes and PINs are known only now. Errors: ErrBatchName, ErrCards, ErrCardTime, those
// of CreateInvite; *CardError of ErrNoUser, ErrCardSelf, and those of RecoveryLink and EnrolLink.
func (s *Service) CreateBatch(ctx context.Context, n NewBatch) (Batch, error) {
	return s.accounts.CreateBatch(ctx, n)
}

// Batches lists the batches without their cards, newest first.
func (s *Service) Batches(ctx context.Context) ([]Batch, error) { return s.accounts.Batches(ctx) }

// Batch is a batch with its cards. Errors: ErrNoCard.
func (s *Service) Batch(ctx context.Context, id string) (Batch, error) {
	return s.accounts.Batch(ctx, id)
}

// RevokeCards withdraws a card, or those of a batch that are open, and says how many.
// Errors: ErrNoCard.
func (s *Service) RevokeCards(ctx context.Context, id string) (int, error) {
	return s.accounts.RevokeCards(ctx, id)
}

// Reprint makes new codes and PINs for cards that were not used, in the place of theirs,
// which end. The batch that it returns has those cards alone. Errors: ErrNoCard,
// ErrReprint, ErrReprintPINs, ErrReprintTime, those of CreateBatch.
func (s *Service) Reprint(ctx context.Context, n Reprint) (Batch, error) {
	return s.accounts.Reprint(ctx, n)
}
