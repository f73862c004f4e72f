package identity_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// attacks are the named bad inputs that the provider has to refuse: by number, what it
// is, and the tests that try it, as file and function. A row without a test says why.
// All are tried on the real program (programAttacks, test/oidc).
var attacks = []struct {
	number int
	what   string
	tests  []string
	open   string
}{
	{1, "no PKCE, plain, no method", []string{"attack_test.go TestAttack01PKCERequired"}, ""},
	{2, "a wrong verifier, or none", []string{"attack_test.go TestAttack02Verifier"}, ""},
	{3, "a code that is used again", []string{"attack_test.go TestAttack03CodeReplay", "../test/oidc/oidc_test.go reuse"}, ""},
	{4, "parallel exchanges", []string{"attack_test.go TestAttack04ParallelExchange"}, ""},
	{5, "a code of another client or redirect", []string{"attack_test.go TestAttack05OtherClientOrRedirect"}, ""},
	{6, "an unregistered or similar redirect", []string{"attack_test.go TestAttack06RedirectExact"}, ""},
	{7, "loopback with https, userinfo, a fragment", []string{"attack_test.go TestAttack07Loopback"}, ""},
	{8, "a repeated parameter", []string{"attack_test.go TestAttack08RepeatedParameter"}, ""},
	{9, "response_type token", []string{"attack_test.go TestAttack09To12AuthorizeParameters"}, ""},
	{10, "request and request_uri", []string{"attack_test.go TestAttack09To12AuthorizeParameters"}, ""},
	{11, "prompt=none without a session", []string{"attack_test.go TestAttack09To12AuthorizeParameters"}, ""},
	{12, "a bad response_mode", []string{"attack_test.go TestAttack09To12AuthorizeParameters"}, ""},
	{13, "two, no or mixed device scopes, an administrator's", []string{"attack_test.go TestAttack13Scopes"}, ""},
	{14, "a state that needs escaping in the fragment", []string{"attack_test.go TestAttack14FragmentState"}, ""},
	{15, "the callback elsewhere or twice", []string{"attack_test.go TestAttack15Callback"}, ""},
	{16, "GET or a query at the token endpoint", []string{"attack_test.go TestAttack16TokenMethod"}, ""},
	{17, "a refresh while the database is busy", []string{"program_test.go programBusy", "attack_test.go TestAttack17RefreshWhileDatabaseFails", "attack_test.go TestAttack17UserinfoWhileDatabaseFails"}, ""},
	{18, "a lost answer, parallel refreshes", []string{"attack_test.go TestAttack18ParallelRefresh"}, ""},
	{19, "an old refresh token after its child was used", []string{"attack_test.go TestAttack19RefreshReuse"}, ""},
	{20, "a refresh by another or unknown client", []string{"attack_test.go TestAttack20And21RefreshByOthersOrWider"}, ""},
	{21, "a wider scope on refresh", []string{"attack_test.go TestAttack20And21RefreshByOthersOrWider"}, ""},
	{22, "a device code that is used again", []string{"program_test.go programDevices", "device_test.go TestDeviceGrant"}, ""},
	{23, "fast polling", []string{"program_test.go programDevices", "device_test.go TestDevicePolling"}, ""},
	{24, "bad registrations", []string{"attack_test.go TestAttack24Registration"}, ""},
	{25, "revocation without client_id", []string{"attack_test.go TestAttack25Revoke"}, ""},
	{26, "a logout that leads elsewhere", []string{"attack_test.go TestAttack26And27Logout", "logout_test.go TestRPInitiatedLogout"}, ""},
	{27, "a logout without a hint", []string{"attack_test.go TestAttack26And27Logout", "logout_test.go TestRPInitiatedLogout"}, ""},
	{28, "forged Host and Forwarded", []string{"attack_test.go TestAttack28ForgedHost"}, ""},
	{29, "cross-site posts", []string{"attack_test.go TestAttack29CrossSite"}, ""},
	{30, "a session cookie that was set before", []string{"attack_test.go TestAttack30SessionFixation"}, ""},
	{31, "framed consent", []string{"attack_test.go TestAttack31Frames"}, ""},
	{32, "many wrong passwords", []string{"attack_test.go TestAttack32WrongPasswords", "attack_test.go TestAttack32Parallel", "attack_test.go TestAttack32Work"}, ""},
	{33, "a code of the authenticator app in a step that was used", []string{"program_test.go programStepTwice", "second_test.go TestAttack33StepTwice"}, ""},
	{34, "a passkey of another origin, or an old assertion", []string{"passkey_test.go TestAttack34Passkeys"}, ""},
	{35, "an invite that was used, has expired, or is used twice at once", []string{"attack_test.go TestAttack35Invites", "cards_test.go TestCardRace"}, ""},
	{36, "a second claim", []string{"program_test.go programClaim", "../web/web_test.go TestSetupFromClaimToInvite"}, ""},
	{37, "a directory without a password, with a filter", []string{"program_test.go programDirectory", "directory_test.go TestDirectorySignIn"}, ""},
	{38, "SAML that is unsigned, wrapped, for others, replayed or unsolicited", []string{"upstream/saml_test.go TestAttack38SAMLAnswers", "../test/oidc/saml_test.go TestSAML"}, ""},
	{39, "an upstream ID token with alg=none or a wrong iss, aud, nonce", []string{"program_test.go programUpstream", "upstream/verify_test.go TestAttack39IDTokens"}, ""},
	{40, "the same e-mail address or name upstream, another subject", []string{"upstream/verify_test.go TestAttack39IDTokens", "../test/oidc/upstream_test.go TestUpstream"}, ""},
	{41, "another application's token at the Matrix API", []string{"attack_test.go TestAttack41ForeignToken", "apps_test.go TestAppSecret"}, ""},
	{42, "a disabled account, a group that was left", []string{"attack_test.go TestAttack42Disabled", "apps_test.go TestAppGroupsAndOff", "logout_test.go TestBackchannelLogoutCauses"}, ""},
	{43, "a clock that goes back", []string{"program_test.go programClock", "clock_test.go TestAttack43ClockSetBack"}, ""},
	{44, "next=//evil", []string{"attack_test.go TestAttack44Next"}, ""},
	{45, "ten thousand registrations", []string{"program_test.go programFlood", "attack_test.go TestAttack45RegistrationFlood"}, ""},
	{46, "a stolen database file", []string{"attack_test.go TestAttack46StolenDatabase", "apps_test.go TestAppSecretsAtRest", "cards_test.go TestCardPINs", "../test/oidc/atrest_test.go TestAttack46StolenDatabaseOfTheProgram"}, ""},
}

// TestAttackTable keeps the table true: each test that it names is there.
func TestAttackTable(t *testing.T) {
	onProgram := map[int]bool{}
	for _, a := range programAttacks {
		for _, n := range a.rows {
			onProgram[n] = true
		}
	}
	last := 0
	for _, a := range attacks {
		if a.number <= last {
			t.Errorf("row %d is out of order", a.number)
		}
		last = a.number
		if (len(a.tests) == 0) != (a.open != "") {
			t.Errorf("row %d (%s) needs a test, or a reason why there is none", a.number, a.what)
		}
		if !onProgram[a.number] && !slices.ContainsFunc(a.tests, func(x string) bool { return strings.HasPrefix(x, "../test/oidc/") }) {
			t.Errorf("row %d (%s) is not tried on the real program", a.number, a.what)
		}
		for _, x := range a.tests {
			file, name, _ := strings.Cut(x, " ")
			b, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(b), "\nfunc "+name+"(") {
				t.Errorf("row %d (%s): there is no %s", a.number, a.what, x)
			}
		}
	}
}
