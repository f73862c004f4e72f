package userdata

import (
	"context"
	"encoding/json"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pushrules"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const maxRulesBytes = 512 << 10 // of what one user changed

// userRules are a user's push rules in the forms that are asked for.
type userRules struct {
	rules    pushrules.Ruleset
	compiled *pushrules.Compiled
	content  mx.Raw // of m.push_rules
}

func newUserRules(userID string, r pushrules.Ruleset) (*userRules, error) {
	content, err := json.Marshal(map[string]any{"global": r})
	if err != nil {
		return nil, err
	}
	return &userRules{r, pushrules.Compile(userID, r), content}, nil
}

// userRules gives a user's rules, from memory if they were asked for before.
func (s *Service) userRules(q store.Querier, userID string) (*userRules, error) {
	_, writing := q.(*store.Tx)
	if !writing {
		if u, ok := cacheGet(s, s.rules, userID); ok {
			return u, nil
		}
	}
	raw, err := loadRules(q, userID)
	if err != nil && err != store.ErrNotFound {
		return nil, err
	}
	var custom pushrules.Ruleset
	if err == nil {
		if err := json.Unmarshal(raw, &custom); err != nil {
			return nil, err
		}
	}
	u, err := newUserRules(userID, pushrules.Compose(userID, custom))
	if err != nil || writing {
		return u, err
	}
	return cachePut(s, s.rules, userID, u, false), nil
}

// CompiledRules gives a user's push rules, ready for evaluation.
func (s *Service) CompiledRules(q store.Querier, userID string) (*pushrules.Compiled, error) {
	u, err := s.userRules(q, userID)
	if err != nil {
		return nil, err
	}
	return u.compiled, nil
}

// Rules gives a user's push rules. The result must not be changed.
func (s *Service) Rules(q store.Querier, userID string) (pushrules.Ruleset, error) {
	u, err := s.userRules(q, userID)
	if err != nil {
		return pushrules.Ruleset{}, err
	}
	return u.rules, nil
}

func (s *Service) ruleRoutes() []route.Route {
	const v3, r0 = "/_matrix/client/v3/pushrules", "/_matrix/client/r0/pushrules"
	rt := func(op, method, path string, h route.Handler, more ...string) route.Route {
		return route.Route{Op: op, Pattern: method + " " + v3 + path, Aliases: append([]string{r0 + path}, more...), Auth: route.User, Limit: route.Reads, Handle: h}
	}
	const rule = "/global/{kind}/{ruleID}"
	return []route.Route{
		rt("getPushRules", "GET", "/{$}", route.Get(s.getRules), v3, r0),
		rt("getPushRulesGlobal", "GET", "/global/{$}", route.Get(s.getGlobalRules), v3+"/global", r0+"/global"),
		rt("getPushRule", "GET", rule, route.Get(s.getRule)),
		rt("setPushRule", "PUT", rule, route.JSON(s.putRule)),
		rt("deletePushRule", "DELETE", rule, route.Get(s.deleteRule)),
		rt("isPushRuleEnabled", "GET", rule+"/enabled", route.Get(s.getEnabled)),
		rt("setPushRuleEnabled", "PUT", rule+"/enabled", route.JSON(s.putEnabled)),
		rt("getPushRuleActions", "GET", rule+"/actions", route.Get(s.getActions)),
		rt("setPushRuleActions", "PUT", rule+"/actions", route.JSON(s.putActions)),
	}
}

func (s *Service) readRules(ctx context.Context, userID string) (u *userRules, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		u, err = s.userRules(q, userID)
		return err
	})
	return u, err
}

func (s *Service) getRules(ctx context.Context, r *route.Request) (mx.Raw, error) {
	u, err := s.readRules(ctx, r.UserID)
	if err != nil {
		return nil, err
	}
	return u.content, nil
}

func (s *Service) getGlobalRules(ctx context.Context, r *route.Request) (pushrules.Ruleset, error) {
	u, err := s.readRules(ctx, r.UserID)
	if err != nil {
		return pushrules.Ruleset{}, err
	}
	return u.rules, nil
}

func (s *Service) findRule(ctx context.Context, r *route.Request) (*pushrules.Rule, error) {
	u, err := s.readRules(ctx, r.UserID)
	if err != nil {
		return nil, err
	}
	return u.rules.Get(r.Param("kind"), r.Param("ruleID"))
}

func (s *Service) getRule(ctx context.Context, r *route.Request) (*pushrules.Rule, error) {
	return s.findRule(ctx, r)
}

type enabledBody struct {
	Enabled *bool `json:"enabled"`
}

type actionsBody struct {
	Actions *pushrules.Actions `json:"actions"`
}

func (s *Service) getEnabled(ctx context.Context, r *route.Request) (out enabledBody, err error) {
	rule, err := s.findRule(ctx, r)
	if err == nil {
		out.Enabled = &rule.Enabled
	}
	return out, err
}

func (s *Service) getActions(ctx context.Context, r *route.Request) (out actionsBody, err error) {
	rule, err := s.findRule(ctx, r)
	if err == nil {
		out.Actions = &rule.Actions
	}
	return out, err
}

type ruleBody struct {
	Actions    *pushrules.Actions    `json:"actions"`
	Conditions []pushrules.Condition `json:"conditions"`
	Pattern    string                `json:"pattern"`
}

func (s *Service) putRule(ctx context.Context, r *route.Request, in ruleBody) (route.Empty, error) {
	if in.Actions == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "A push rule needs actions.")
	}
	return s.changeRules(ctx, r.UserID, func(rules *pushrules.Ruleset) error {
		rule := pushrules.Rule{RuleID: r.Param("ruleID"), Conditions: in.Conditions, Pattern: in.Pattern, Actions: *in.Actions}
		return rules.Put(r.Param("kind"), rule, r.Query("before"), r.Query("after"))
	})
}

func (s *Service) deleteRule(ctx context.Context, r *route.Request) (route.Empty, error) {
	return s.changeRules(ctx, r.UserID, func(rules *pushrules.Ruleset) error {
		return rules.Delete(r.Param("kind"), r.Param("ruleID"))
	})
}

func (s *Service) putEnabled(ctx context.Context, r *route.Request, in enabledBody) (route.Empty, error) {
	if in.Enabled == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Say in %q whether the rule is on.", "enabled")
	}
	return s.changeRules(ctx, r.UserID, func(rules *pushrules.Ruleset) error {
		return rules.SetEnabled(r.Param("kind"), r.Param("ruleID"), *in.Enabled)
	})
}

func (s *Service) putActions(ctx context.Context, r *route.Request, in actionsBody) (route.Empty, error) {
	if in.Actions == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Put the rule's actions in %q.", "actions")
	}
	return s.changeRules(ctx, r.UserID, func(rules *pushrules.Ruleset) error {
		return rules.SetActions(r.Param("kind"), r.Param("ruleID"), *in.Actions)
	})
}

func (s *Service) changeRules(ctx context.Context, userID string, change func(*pushrules.Ruleset) error) (out route.Empty, err error) {
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.changeRulesIn(tx, userID, change) })
}

func (s *Service) changeRulesIn(tx *store.Tx, userID string, change func(*pushrules.Ruleset) error) error {
	u, err := s.userRules(tx, userID) // fresh ones: they may be changed
	if err != nil {
		return err
	}
	if err := change(&u.rules); err != nil {
		return err
	}
	raw, err := json.Marshal(u.rules.Custom(userID))
	if err != nil {
		return err
	}
	if len(raw) > maxRulesBytes {
		return mx.Errorf(mx.TooLarge, "There are too many push rules. Delete some first.")
	}
	if err := upsertRules(tx, userID, raw, tx.NextPos()); err != nil {
		return err
	}
	now, err := newUserRules(userID, u.rules)
	if err != nil {
		return err
	}
	tx.AfterCommit(func() { cachePut(s, s.rules, userID, now, true) })
	tx.Touch(notify.User, userID)
	return nil
}
