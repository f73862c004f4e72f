package userdata

import (
	"context"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	defaultResults = 10
	maxResults     = 50
)

func (s *Service) directoryRoutes() []route.Route {
	return []route.Route{{
		Op: "searchUserDirectory", Pattern: "POST /_matrix/client/v3/user_directory/search", Aliases: []string{"/_matrix/client/r0/user_directory/search"},
		Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.search),
	}}
}

type searchRequest struct {
	Term  *string `json:"search_term"`
	Limit *int    `json:"limit"`
}

type person struct {
	UserID      string `json:"user_id"`
	DisplayName string `json:"display_name,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`

	rank int
}

type searchResponse struct {
	Limited bool     `json:"limited"`
	Results []person `json:"results"`
}

// search finds local people by name: those who share a room with the searcher or
// are in a room that is public or can be read by anybody. Whoever is named by their whole ID or localpart is found
// too: their profile can be read anyway. Spec: cs#post_matrixclientv3user_directorysearch
func (s *Service) search(ctx context.Context, r *route.Request, in searchRequest) (out searchResponse, err error) {
	if in.Term == nil {
		return out, mx.Errorf(mx.MissingParam, "Say in search_term what to look for.")
	}
	limit := defaultResults
	if in.Limit != nil {
		if *in.Limit < 0 {
			return out, mx.Errorf(mx.InvalidParam, "The limit must be a number of 0 or more.")
		}
		limit = min(max(*in.Limit, 1), maxResults)
	}
	terms := strings.Fields(strings.ToLower(strings.TrimPrefix(strings.TrimSpace(*in.Term), "@")))
	if len(*in.Term) > 500 {
		return out, mx.Errorf(mx.InvalidParam, "A search has at most 500 bytes.")
	}
	out.Results = []person{}
	everyone := s.o.Everyone != nil && s.o.Everyone()
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		visible, err := s.visible(q, r.UserID)
		if err != nil {
			return err
		}
		return eachProfile(q, func(userID, name, avatar string) {
			if userID == r.UserID {
				return
			}
			p := person{UserID: userID, DisplayName: name, AvatarURL: avatar}
			local := strings.ToLower(mx.Localpart(userID))
			exact := len(terms) == 1 && (terms[0] == local || "@"+terms[0] == strings.ToLower(userID))
			if !exact && !everyone && !visible[userID] {
				return
			}
			switch lower := strings.ToLower(name); {
			case exact:
				p.rank = 3
			case len(terms) > 0 && (strings.HasPrefix(lower, terms[0]) || strings.HasPrefix(local, terms[0])):
				p.rank = 1
				fallthrough
			default:
				for _, t := range terms {
					if !strings.Contains(lower, t) && !strings.Contains(strings.ToLower(userID[1:]), t) {
						return
					}
				}
			}
			if visible[userID] {
				p.rank++
			}
			out.Results = append(out.Results, p)
		})
	})
	slices.SortStableFunc(out.Results, func(a, b person) int { return b.rank - a.rank })
	if len(out.Results) > limit {
		out.Results, out.Limited = out.Results[:limit], true
	}
	return out, err
}

// visible are the users that userID may find.
func (s *Service) visible(q store.Querier, userID string) (map[string]bool, error) {
	shared, err := s.o.Rooms.SharedUsers(q, userID)
	if err != nil {
		return nil, err
	}
	var public []string
	if s.o.PublicUsers != nil {
		if public, err = s.o.PublicUsers(q); err != nil {
			return nil, err
		}
	}
	out := make(map[string]bool, len(shared)+len(public))
	for _, u := range shared {
		out[u] = true
	}
	for _, u := range public {
		out[u] = true
	}
	return out, nil
}
