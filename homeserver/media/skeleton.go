package media

import "holdfast/homeserver/route"

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct{ o Options }

// New makes the service.
func New(o Options) *Service { return &Service{o: o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route { return nil }
