package identity

// PasswordWork is how much work passwords have cost since the start.
func (s *Service) PasswordWork() uint64 { return s.accounts.PasswordWork() }
