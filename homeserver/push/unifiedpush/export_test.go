package unifiedpush

// Remembered is how many topics without an owner are in memory.
func Remembered(s *Service) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unknown)
}
