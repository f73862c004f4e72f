package appliance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"holdfast/appliance/config"
)

// Exit codes of the command line.
const (
	exitOK     = 0
	exitFailed = 1 // it was tried and did not work
	exitUsage  = 2 // the command or the configuration is wrong
	exitNoServ = 3 // there is no running appliance to ask
)

// command is one command of the CLI.
type command struct {
	name  string // "user add"
	args  string // "NAME"
	short string
	long  string
	nargs [2]int // fewest and most arguments; most -1: any
	data  bool   // it prints data: there is --json
	flags func(*flag.FlagSet, *cli)
	run   func(context.Context, *cli, []string) error
}

// cli is one call of the command line.
type cli struct {
	out, err io.Writer
	in       config.Input
	json     bool

	// Flags of single commands.
	admin, undo, keep bool
	displayName       string
	group             string
	roles, groups     []string
	place             placeFlags
	password          string
	passwordStdin     bool
	uses              int
	expires           string
	inviteName        string
	dryRun            bool
	template          bool
	hardware          bool
	device            string
	files             fileRules
	login             loginRules
	notices           noticeRules
	all               bool
	sso               appFlags
	noticeID          string
	push              pushRules
	app               appserviceFlags
	previews          previewRules
	directory         directoryFlags
	upstream          upstreamFlags
	list              listFlags
	card              cardFlags
	audit             auditFlags
	mail              struct {
		host, security, user, from, ca string
		port                           int
	}
}

type setFlag struct{ list *[]string }

func (s setFlag) String() string { return "" }
func (s setFlag) Set(v string) error {
	if !strings.Contains(v, "=") {
		return errors.New("write key=value")
	}
	*s.list = append(*s.list, v)
	return nil
}

// usageError is a mistake in how a command was called.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func commands() []command {
	return []command{
		{name: "serve", short: "run the appliance", run: runServe,
			long: "Runs the appliance on a data folder, which is made if it is missing. No question is\nasked; a new appliance prints the address and a claim code for its setup.\nSIGTERM and SIGINT stop it after the requests that run."},
		{name: "sfu", short: "run a call relay on another machine, for an appliance's calls", run: runSFU,
			long: "Runs a call relay that takes calls of an appliance on another machine. Both know a\nRedis (sfu.redis, sfu.redis_password) and the same key (sfu.cluster_key). No data is kept\nhere and no client signs in here: people's sound and pictures come to sfu.udp_port and\nsfu.tcp_port. /readyz and /metrics are at listen.metrics. SIGTERM and SIGINT stop it: its\ncalls go on, after sfu.drain seconds at most, on another relay."},
		{name: "version", data: true, short: "print the version", run: runVersion},
		{name: "doctor", data: true, short: "check the configuration, the machine and the running appliance", run: runDoctor,
			long: "Checks what goes wrong most often and says what to do. Exit code 1 if something is\nwrong; it changes nothing. --hardware lists the devices instead, and exit code 1 then\nmeans that a disk or network device has no driver.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.hardware, "hardware", false, "list the machine's devices and what has no driver")
			}},
		{name: "claim", data: true, short: "print a new claim code for the setup", run: runClaim,
			long: "Makes a new claim code for an appliance that nobody has set up yet; the one before\nbecomes useless."},
		{name: "user add", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "make an account", run: runUserAdd,
			long: "Makes an account. Without a password one is made and printed once.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.admin, "admin", false, "the person administers the appliance")
				f.StringVar(&c.displayName, "name", "", "display `name`, such as \"Anna Meyer\"")
				passwordFlags(f, c)
			}},
		{name: "user list", data: true, short: "list the accounts", run: runUserList},
		{name: "user password", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "set a new password", run: runUserPassword,
			long: "Sets a new password and ends the person's sessions. Without a password one is made and\nprinted once.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.keep, "keep-sessions", false, "leave the person's devices logged in")
				passwordFlags(f, c)
			}},
		{name: "user recover", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "make a link for who lost password, second factor and devices", run: runUserRecover,
			long: "Makes a link by which one person sets a new password, once. It removes the second factor\nand signs them out everywhere else. Make sure whom you give it to: whoever opens it has\nthe account. It replaces an earlier link.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.expires, "expires", "24h", "how long it is valid: a `duration` such as 30m, 12h or 7d")
				f.StringVar(&c.card.cards, "cards", "", "print it as a card into this new `file` (PDF) instead")
				paperFlags(f, c)
			}},
		{name: "user disable", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "lock an account, or unlock it", run: runUserDisable,
			long: "Locks an account and ends its sessions. Nothing is deleted; --undo unlocks it.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.undo, "undo", false, "unlock the account")
			}},
		{name: "invite batch", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "print invites as cards: a PDF to cut apart", run: runInviteBatch,
			long: "Makes invites of which each makes one account, and writes them as a PDF: a QR code, a code\nto type, and what to do. With --pins each needs a PIN too, which stands in a file of its\nown. The appliance keeps hashes alone: invite reprint makes others for those that are lost.\nNAME is what the list shows.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.IntVar(&c.card.count, "count", 10, "how many cards: a `number` up to 1000")
				f.StringVar(&c.card.cards, "cards", "", "the new `file` for the cards (PDF)")
				f.StringVar(&c.expires, "expires", "14d", "how long they are valid: a `duration` such as 12h or 30d")
				f.BoolVar(&c.admin, "admin", false, "the accounts administer the appliance: short for --role admin")
				paperFlags(f, c)
				roleFlags(f, c)
			}},
		{name: "invite reprint", data: true, args: "ID", nargs: [2]int{1, 1}, short: "print cards again that were not used; their old codes end", run: runInviteReprint,
			long: "Makes new cards in the place of one, or of all of a batch that were not used, and writes\nthem as a PDF. Their old codes and PINs end at once; those that were used, or that were\nwithdrawn, are left out of a batch. Numbers, role and groups stay, and so does the day on\nwhich the batch ends, unless --expires says otherwise.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.card.cards, "cards", "", "the new `file` for the cards (PDF)")
				f.StringVar(&c.expires, "expires", "", "how long the new ones are valid: a `duration` such as 12h or 30d; until the batch's end unless given")
				paperFlags(f, c)
			}},
		{name: "invite list", data: true, args: "[ID]", nargs: [2]int{0, 1}, short: "list the batches of cards, or the cards of one", run: runInviteList},
		{name: "invite revoke", data: true, args: "ID", nargs: [2]int{1, 1}, short: "withdraw a batch of cards, or one card", run: runInviteRevoke},
		{name: "invite", data: true, short: "make a link by which people make their accounts", run: runInvite,
			flags: func(f *flag.FlagSet, c *cli) {
				f.IntVar(&c.uses, "uses", 1, "how many accounts it may make")
				f.StringVar(&c.expires, "expires", "168h", "how long it is valid: a `duration` such as 30m, 12h or 7d")
				f.StringVar(&c.inviteName, "for", "", "the user `name` of the account")
				f.BoolVar(&c.admin, "admin", false, "the account administers the appliance: short for --role admin")
				roleFlags(f, c)
			}},
		{name: "user import", data: true, args: "FILE", nargs: [2]int{1, 1}, short: "take people over from a list: a spreadsheet, LDIF, an export of AD or Entra", run: runUserImport,
			long: "Compares a list with the accounts and prints what would change; nothing is changed. The\nsame command with --apply and the number that it printed does it. FILE is CSV with a line\nof headings, or LDIF; - is standard input. Columns: username, displayname, groups (with\nsemicolons between), enabled, id; those of Active Directory and Entra are known, too.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.list.choices.List, "list", "people", "the list's `name`; a later one of that name is compared with who came by the earlier")
				f.BoolVar(&c.list.choices.Join, "join", false, "accounts of the same user name that were made otherwise are the list's from then on")
				f.BoolVar(&c.list.choices.Gone, "lock-gone", false, "lock who came by this list and is not in it any more")
				f.BoolVar(&c.list.choices.Names, "names", false, "displayed names follow the list")
				f.BoolVar(&c.list.choices.Anyway, "anyway", false, "also where more than a fifth of the list's people are locked")
				f.StringVar(&c.list.apply, "apply", "", "do what was shown under this `number`")
				f.StringVar(&c.card.cards, "cards", "", "with --apply: write cards for the new accounts' passwords into this new `file` (PDF), for seven days")
				paperFlags(f, c)
				f.StringVar(&c.list.links, "links", "", "with --apply: write links for the new accounts' passwords into this new `file`, for seven days")
			}},
		{name: "directory set", data: true, args: "ID", nargs: [2]int{1, 1}, short: "let people of an LDAP directory or Active Directory sign in", run: runDirectorySet,
			long:  "Makes a directory under a short name of your choice, or changes it: everything that was\nset before is replaced; a password stays while --url and --bind-dn are the same.\nPeople sign in with the directory's password; who is gone or disabled there is locked\nhere. Local accounts sign in as before, also while the directory is down.",
			flags: directoryFlagsOf},
		{name: "directory list", data: true, short: "list the directories and what was last read", run: runDirectoryList},
		{name: "directory test", data: true, args: "ID", nargs: [2]int{1, 1}, short: "read a directory and change nothing", run: runDirectoryTest},
		{name: "directory sync", data: true, args: "ID", nargs: [2]int{1, 1}, short: "read a directory now", run: runDirectorySync,
			long: "Reads a directory now and takes over what changed. Where more than a fifth of its\npeople would be locked nothing is changed.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.directory.anyway, "anyway", false, "take it over, also if many people are locked")
			}},
		{name: "directory join", args: "ID USER NAME", nargs: [2]int{3, 3}, short: "give a local account to somebody in a directory", run: runDirectoryJoin,
			long: "The account USER, which was made here, belongs to the person NAME of the directory from\nthen on: its password here is dropped, that of the directory is asked."},
		{name: "directory remove", args: "ID", nargs: [2]int{1, 1}, short: "forget a directory", run: runDirectoryRemove},
		{name: "upstream add", data: true, args: "ID", nargs: [2]int{1, 1}, short: "let people of another OpenID or SAML provider sign in", run: runUpstreamAdd,
			long: "Adds a provider under a short name of your choice, or replaces its settings. People are known\nby its issuer and subject; whose user name has a local account here prove that first.\nWith --saml or --saml-url it is a SAML 2.0 provider, of which the metadata say everything.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.upstream.c.Issuer, "issuer", "", "the provider's `address`, as https://login.example.org")
				f.StringVar(&c.upstream.c.ClientID, "client-id", "", "the `ID` that it gave out for here")
				f.BoolVar(&c.upstream.stdin, "secret-stdin", false, "read the secret from standard input")
				f.StringVar(&c.upstream.caFile, "ca-file", "", "a PEM `file` with the certificate authority of the provider, if it is one of your own; no other is trusted for it then")
				f.StringVar(&c.upstream.c.Name, "name", "", "the `text` on the button")
				f.Var(list{&c.upstream.scopes}, "scope", "a `scope` to ask for besides openid; may be repeated; else profile")
				f.StringVar(&c.upstream.c.UserClaim, "user-claim", "", "the `claim` with the user name (default preferred_username); of SAML, as all claims, an attribute")
				f.StringVar(&c.upstream.c.NameClaim, "name-claim", "", "the `claim` with the displayed name (default name)")
				f.BoolVar(&c.upstream.c.NameFollows, "name-follows", false, "set the displayed name at each sign-in, not only for a new account")
				f.StringVar(&c.upstream.c.MailClaim, "mail-claim", "", "the `claim` with the e-mail address (default email)")
				f.BoolVar(&c.upstream.c.MailTrusted, "mail-trusted", false, "the provider verified all its addresses, though it does not say so (email_verified)")
				f.BoolVar(&c.upstream.c.MailTaken, "mail-taken", false, "give the account the address, unless another has it")
				f.StringVar(&c.upstream.c.GroupsClaim, "groups-claim", "", "the `claim` with the groups (default groups)")
				f.Var(list{&c.upstream.groups}, "group", "who is in a group there is in one here, as `THERE=HERE`, or one name for both; may be repeated")
				f.StringVar(&c.upstream.c.RequireClaim, "require-claim", "", "let in only who has something in this `claim`")
				f.Var(list{&c.upstream.c.RequireValues}, "require-value", "let in only who has this `value` in it; may be repeated: one of them")
				f.Var(list{&c.upstream.c.Domains}, "domain", "let in only who has a verified e-mail address of this `domain`; may be repeated")
				f.StringVar(&c.upstream.c.Prompt, "prompt", "", "have people prove anew who they are there: login, consent or select_account")
				f.Var(list{&c.upstream.c.ACRs}, "acr", "a `value` of acr to ask the provider for; may be repeated")
				f.BoolVar(&c.upstream.c.RequireACR, "require-acr", false, "refuse who did not reach one of them")
				f.BoolVar(&c.upstream.c.SignOut, "sign-out", false, "who signs out here goes on to the provider's sign-out, too")
				f.BoolVar(&c.upstream.c.RequireMFA, "require-mfa", false, "refuse who had no second factor there (amr mfa)")
				f.BoolVar(&c.upstream.c.TrustMFA, "trust-mfa", false, "a second factor there counts as one here")
				f.BoolVar(&c.upstream.c.Closed, "closed", false, "make no accounts: only who has one here signs in")
				samlFlagsOf(f, c)
			}},
		{name: "upstream list", data: true, short: "list the other providers that people sign in with, and whether they answer", run: runUpstreamList},
		{name: "upstream test", data: true, args: "ID", nargs: [2]int{1, 1}, short: "see whether a provider answers", run: runUpstreamTest},
		{name: "upstream metadata", data: true, args: "ID", nargs: [2]int{1, 1}, short: "print what a SAML provider has to know of here", run: runUpstreamMetadata,
			long: "Prints the SAML metadata for a provider. Its administrator loads them there; they name our\naddresses and have our certificate."},
		{name: "upstream remove", data: true, args: "ID", nargs: [2]int{1, 1}, short: "forget a provider", run: runUpstreamRemove,
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.upstream.people, "people", "keep", "what becomes of its people: keep has their accounts wait for it to come back, unlink has them be local ones, lock also locks who has no other way in (`what`)")
			}},
		{name: "group room add", args: "GROUP ROOM", nargs: [2]int{2, 2}, short: "put a group's people into a room or space", run: runGroupRoomAdd,
			long: "Puts everybody who is in a group, or comes into it, into a room or space, which is named by\nits alias or ID, and takes out again who leaves the group or is locked. A rule that there\nis already is changed: what is not named is as if it were new.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.place.level, "level", "", "the power level that they get: a `number` from 1 to 100, moderator (50) or admin (100); else the room's default")
				f.StringVar(&c.place.takeOut, "take-out", "yes", "whether who leaves the group is out: yes, no, or all: also who was in the room before (`which`)")
				f.BoolVar(&c.place.rooms, "rooms", false, "of a space: put them into its rooms, too")
			}},
		{name: "group room list", data: true, args: "[GROUP]", nargs: [2]int{0, 1}, short: "list which groups' people are in which rooms, and what is wrong", run: runGroupRoomList},
		{name: "group room apply", args: "GROUP ROOM", nargs: [2]int{2, 2}, short: "put those in again who left the room", run: runGroupRoomApply,
			long: "Who left a room by themselves, or was put out by its moderators, is not put in again by\nitself. This does it once."},
		{name: "group room remove", args: "GROUP ROOM", nargs: [2]int{2, 2}, short: "put a group's people into a room no longer", run: runGroupRoomRemove,
			long: "Removes the rule. Its people stay in the room, without the power level that they got.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.place.out, "out", false, "take those out whom the rule put in")
			}},
		{name: "group list", data: true, short: "list the groups", run: runGroupList},
		{name: "group add", args: "NAME", nargs: [2]int{1, 1}, short: "make a group", run: runGroupAdd},
		{name: "group rename", args: "NAME NEW", nargs: [2]int{2, 2}, short: "give a group another name", run: runGroupRename},
		{name: "group remove", args: "NAME", nargs: [2]int{1, 1}, short: "remove a group; its people stay", run: runGroupRemove},
		{name: "group members", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "list who is in a group", run: runGroupMembers},
		{name: "group join", args: "NAME USER...", nargs: [2]int{2, -1}, short: "put people into a group", run: runGroupJoin},
		{name: "group leave", args: "NAME USER...", nargs: [2]int{2, -1}, short: "take people out of a group", run: runGroupLeave},
		{name: "role list", data: true, short: "list who has which role", run: runRoleList},
		{name: "role grant", args: "ROLE USER", nargs: [2]int{1, 2}, short: "give a person, or a group, a role", run: runRoleGrant,
			long: "Roles: owner may do everything and alone decides who is an owner; admin decides about\naccounts and settings; moderator handles reports, rooms and media; auditor sees what\nadministrators see and changes nothing.", flags: groupFlag},
		{name: "role revoke", args: "ROLE USER", nargs: [2]int{1, 2}, short: "take a role away", run: runRoleRevoke,
			long: "Takes a role away. What a person has through a group stays. The last owner stays one.", flags: groupFlag},
		{name: "audit verify", data: true, short: "see that the audit log is whole and nobody changed it", run: runAuditVerify,
			long: "Reads the whole audit log of the running appliance: that every entry follows on the one\nbefore, was written with the appliance's key, and that none is missing at the end. With\n--file it reads an export, or the log in a database file (holdfast.db), without an appliance\ntoo; the MACs are looked at where identity.key is in the data folder, or beside that file. --head compares with what was noted down earlier.\nExit code 1 if something is wrong.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.audit.file, "file", "", "an export in JSON Lines, or a database: a `file`, or - for standard input")
				f.StringVar(&c.audit.head, "head", "", "a number and hash that was printed before, as `SEQ:HASH`")
			}},
		{name: "audit export", short: "write the audit log to a file, with its hashes", run: runAuditExport,
			long: "Writes the entries of a time, the oldest first, as JSON Lines, one entry a line with its\nhash, or with --csv as a table. holdfast audit verify --file reads the former. Times are\ndays (2026-11-29), times of RFC 3339, or durations (30d: thirty days ago).",
			flags: func(f *flag.FlagSet, c *cli) {
				auditTimes(f, c)
				f.StringVar(&c.audit.out, "out", "-", "the `file` to write, which must not exist; - is standard output")
				f.BoolVar(&c.audit.csv, "csv", false, "write a table for people instead")
			}},
		{name: "audit list", data: true, short: "list what happened, the newest first", run: runAuditList,
			flags: func(f *flag.FlagSet, c *cli) {
				auditTimes(f, c)
				f.StringVar(&c.audit.actor, "actor", "", "only what this `user` did")
				f.StringVar(&c.audit.target, "target", "", "only what happened to this `user`, group or application")
				f.StringVar(&c.audit.event, "event", "", "only this `event`; with a dot at its end all that begin so, as user.")
				f.IntVar(&c.audit.limit, "limit", 100, "how many at most: a `number` up to 500")
			}},
		{name: "masterkey show", data: true, short: "tell how the key is kept that seals the secrets in the database", run: runMasterShow},
		{name: "masterkey passphrase", short: "seal the master key under a passphrase, or change it", run: runMasterPassphrase,
			long: "Seals the master key under a passphrase, in place of what it was sealed by, while the\nappliance runs. From then on each start needs it: from the file that key.passphrase_file\nnames, as systemd's credential holdfast.passphrase, or typed at the terminal. The one\nbefore is not asked for.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.passwordStdin, "passphrase-stdin", false, "read the passphrase from standard input")
			}},
		{name: "masterkey tpm", data: true, short: "seal the master key by this machine's TPM 2.0 chip", run: runMasterTPM,
			long: "Gives the master key to the chip, which gives it back on this machine alone and while Secure\nBoot is as it is (PCR 7); updates do not change that. Prints, once, a recovery passphrase\nfor when it does not."},
		{name: "masterkey plain", short: "keep the master key in its file as it is", run: runMasterPlain},
		{name: "clock accept", short: "take the machine's clock for right although it was set back", run: runClockAccept,
			long: "Tokens, sign-ins and invites that have expired stay so when the clock is set back: time\ngoes on from the latest that was seen. Where the clock was ahead by mistake, this takes\nthe time that it shows now for right."},
		{name: "mail set", data: true, short: "name the mail server by which e-mail is sent", run: runMailSet,
			long: "Names the mail server by which people prove an e-mail address and get a forgotten\npassword replaced. Without it no e-mail is sent. Everything that was set before is\nreplaced; a password stays while --host and --user are the same.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.mail.host, "host", "", "the mail server's `name`")
				f.IntVar(&c.mail.port, "port", 0, "its `port`; else 587 with starttls, 465 with tls, 25 with none")
				f.StringVar(&c.mail.security, "security", "starttls", "how the way there is protected: starttls, tls or none (`kind`)")
				f.StringVar(&c.mail.user, "user", "", "the `user` to log in as")
				f.BoolVar(&c.passwordStdin, "password-stdin", false, "read the user's password from standard input")
				f.StringVar(&c.mail.from, "from", "", "the sender: an `address`, also with a name, as in \"Chat <chat@example.org>\"")
				f.StringVar(&c.mail.ca, "ca", "", "a PEM `file` with the certificate authority of the mail server, if it is one of your own")
			}},
		{name: "mail show", data: true, short: "print the mail server, without its password", run: runMailShow},
		{name: "mail test", args: "ADDRESS", nargs: [2]int{1, 1}, short: "send a test message", run: runMailTest,
			long: "Sends a message to an address, and says at which step it failed and what to do."},
		{name: "files set", data: true, short: "limit what people may upload, and how long it is kept", run: runFilesSet,
			long: "Changes the rules for uploaded files; they hold at once. What is not named stays as it is.\nSizes are such as 500M or 20G.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.files.MaxUpload, "max-upload", "", "the largest file (`size`; standard: 100M)")
				f.StringVar(&c.files.Quota, "quota", "", "what each person may have stored: a `size`, or none")
				f.StringVar(&c.files.Total, "total", "", "what all may have stored together: a `size`, or none")
				f.StringVar(&c.files.Keep, "keep", "", "delete what nobody has asked for in this `time`, such as 365d, or forever")
				f.StringVar(&c.files.Open, "open", "", "give files to old clients that do not sign in: never, always, or those from before a `day`, as 2027-01-31")
			}},
		{name: "files show", data: true, short: "print the rules for uploaded files", run: runFilesShow},
		{name: "login set", data: true, short: "decide how people sign in, and who must have a second factor", run: runLoginSet,
			long: "Changes the rules of signing in, at once. What is not named stays as it is, and so do sessions\nthat exist, but for those of browsers that are signed in for longer than they may be. The ways of\nthe legacy login of older clients are --password and --sso; applications that sign in in the\nbrowser (OAuth 2.0), such as Element X and the built-in client, and application services are not\ntouched by them. Who must have a second factor and has none adds it\nat the next sign-in in the browser; nobody is shut out.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.login.Password, "password", "", "whether clients may take the password themselves: on or off (`state`; standard: on)")
				f.StringVar(&c.login.SSO, "sso", "", "whether clients may send the browser here for a login token: on or off (`state`; standard: on)")
				f.StringVar(&c.login.PasswordAlone, "password-alone", "", "whether clients that know no second factor may sign in with the password of who has, or must have, one: on or off (`state`; standard: off)")
				f.StringVar(&c.login.SecondFactor, "second-factor", "", "`who` must have a second factor: nobody, roles (owners, administrators, moderators, auditors) or everyone (standard: nobody)")
				f.StringVar(&c.login.Groups, "second-factor-groups", "", "`groups` whose members must have one, too, with commas between, or none")
				f.StringVar(&c.login.Grace, "second-factor-grace", "", "for how many `days` that can be put off; 0: not (standard: 0)")
				f.StringVar(&c.login.PasswordMin, "password-min", "", "how many `characters` a new password has at least, whoever sets it: 8 to 64 (standard: 8)")
				f.StringVar(&c.login.SessionMax, "session-max", "", "how long a browser stays signed in: a `time` from 1h to 365d; what is older ends at once (standard: 30d)")
				f.StringVar(&c.login.SessionIdle, "session-idle", "", "how long it stays signed in while nobody uses it: a `time` of 5m or more, or none (standard: none)")
			}},
		{name: "login show", data: true, short: "print the rules of signing in", run: runLoginShow},
		{name: "push add", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "let a person's phone fetch its notifications from here", run: runPushAdd,
			long: "Makes a user and password for a distributor of UnifiedPush, as the ntfy app, on a person's\nphone. People do the same for themselves on their account's page.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.displayName, "name", "phone", "what to call the phone (`name`)")
				f.StringVar(&c.device, "device", "", "the `ID` of a session: when it is signed out, the phone ends with it")
			}},
		{name: "push list", data: true, args: "[NAME]", nargs: [2]int{0, 1}, short: "list the phones that fetch their notifications from here", run: runPushList},
		{name: "push end", args: "NAME ID", nargs: [2]int{2, 2}, short: "give a phone no notifications any more", run: runPushEnd},
		{name: "push set", data: true, short: "say how long messages wait for phones, and for whom", run: runPushSet,
			long: "Changes the rules for push; they hold at once. What is not named stays as it is.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.push.Keep, "keep", "", "how long a message waits for its phone: a `time` from a minute to 30d (standard: 12h)")
				f.StringVar(&c.push.Foreign, "foreign", "", "whether this server's gateway pushes to endpoints of other push servers, too: on or off (`state`; standard: off)")
			}},
		{name: "push show", data: true, short: "print the rules for push", run: runPushShow},
		{name: "appservice list", data: true, short: "list the bridges and bots that are application services", run: runAppserviceList,
			long: "Lists the application services with what waits for each and whether it takes it. Tokens\nare not shown."},
		{name: "appservice add", data: true, args: "FILE", nargs: [2]int{1, 1}, short: "register a bridge or bot by its registration file", run: runAppserviceAdd,
			long: "Registers an application service (a bridge or bot) by its registration file; - is\nstandard input. It counts at once and after a restart; the file itself is not needed\nby the appliance any more."},
		{name: "appservice remove", args: "ID", nargs: [2]int{1, 1}, short: "remove a bridge or bot", run: runAppserviceRemove,
			long: "Removes an application service that was added, at once. What waits for it is dropped;\nits users and rooms stay."},
		{name: "appservice retry", args: "ID", nargs: [2]int{1, 1}, short: "send a bridge or bot now what waits for it", run: runAppserviceRetry,
			long: "Sends what waits for an application service that was away, without waiting for the\nnext try."},
		{name: "appservice generate", data: true, args: "ID", nargs: [2]int{1, 1}, short: "write a registration file for a bridge or bot", run: runAppserviceGenerate,
			long: "Writes a registration file with new random tokens, readable by you alone. Without --users\nthe users of the service are @ID_... and without --sender its own is @IDbot.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.app.URL, "url", "", "where the service listens: an `address` as http://127.0.0.1:29300, or none")
				f.StringVar(&c.app.Sender, "sender", "", "the `name` of its own user")
				f.Var(list{&c.app.Users}, "users", "a regular expression (`regex`) of the users that it has, as @irc_.*; may be repeated")
				f.Var(list{&c.app.Aliases}, "aliases", "a `regex` of room aliases that it has, as #irc_.*; may be repeated")
				f.Var(list{&c.app.Rooms}, "rooms", "a `regex` of IDs of rooms whose events it gets; may be repeated")
				f.BoolVar(&c.app.Shared, "shared", false, "others may have users and aliases of these names, too")
				f.Var(list{&c.app.Protocols}, "protocol", "a `name` under which clients look for its network; may be repeated")
				f.BoolVar(&c.app.Ephemeral, "ephemeral", false, "send it typing, receipts and presence, too")
				f.BoolVar(&c.app.Encryption, "encryption", false, "send it what it needs to encrypt for its users without a login")
				f.StringVar(&c.app.out, "out", "", "the `file` to write; else ID.yaml here; - is standard output")
				f.BoolVar(&c.app.add, "add", false, "register it at once, too")
			}},
		{name: "app add", data: true, args: "NAME", nargs: [2]int{1, 1}, short: "let another application sign people in here", run: runAppAdd,
			long: "Makes an application for single sign-on by OpenID Connect. Its ID and its secret are what\nthe application has to be told; the secret is not shown again. A template knows the\nredirect URIs of a product: nextcloud, grafana, gitea, jitsi; generic and public (without a\nsecret) need --redirect.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.sso.Template, "template", "generic", "what it is: a `kind`")
				f.StringVar(&c.sso.Address, "url", "", "the `address` of the application, as https://cloud.example.org")
				f.Var(list{&c.sso.Redirects}, "redirect", "an `address` that people are sent back to; may be repeated")
				f.StringVar(&c.sso.JWKSFile, "jwks", "", "a `file` with its public keys (JSON Web Key Set): it proves itself by these instead of a secret")
				f.Var(list{&c.sso.Back}, "after-logout", "an `address` that people may be sent back to when they have signed out; may be repeated")
				f.StringVar(&c.sso.Backchan, "logout-url", "", "the `address` where it is told that somebody signed out (back-channel logout)")
				f.StringVar(&c.sso.CAFile, "ca-file", "", "a PEM `file` with the certificate authority of that address, if it is one of your own; no other is trusted there then")
				f.Var(list{&c.sso.Groups}, "group", "a `group` that may use it; may be repeated; else everybody may")
				f.BoolVar(&c.sso.Silent, "skip-consent", false, "do not ask people whether it may know them")
				f.BoolVar(&c.sso.Pairwise, "pairwise", false, "give people subjects that no other application knows them by")
				f.BoolVar(&c.sso.Introspect, "introspect-all", false, "let it ask about tokens of all applications")
			}},
		{name: "app list", data: true, short: "list the applications that sign people in here", run: runAppList},
		{name: "app change", data: true, args: "ID", nargs: [2]int{1, 1}, short: "change who may use an application, and where it is told of logouts", run: runAppChange,
			long: "Changes an application, at once; its ID is in holdfast app list. What is not named stays as it\nis. It ends for who may not use it any more.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.Var(list{&c.sso.Groups}, "group", "a `group` that may use it from now on; may be repeated; those of before are replaced")
				f.BoolVar(&c.sso.Everybody, "everybody", false, "let everybody use it")
				f.StringVar(&c.sso.Backchan, "logout-url", "", "the `address` where it is told that somebody signed out (back-channel logout), or none")
				f.StringVar(&c.sso.CAFile, "ca-file", "", "a PEM `file` with the certificate authority of that address, if it is one of your own; no other is trusted there then; none: those that the machine trusts")
			}},
		{name: "app secret", data: true, args: "ID", nargs: [2]int{1, 1}, short: "give an application a second secret, or remove one", run: runAppSecret,
			long: "Makes another secret, printed once. The one before goes on working until it is removed with\n--remove; an application has two at most.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.sso.Remove, "remove", "", "the `ID` of the secret to remove")
			}},
		{name: "app disable", data: true, args: "ID", nargs: [2]int{1, 1}, short: "switch an application off, or on again", run: runAppDisable,
			flags: func(f *flag.FlagSet, c *cli) { f.BoolVar(&c.undo, "undo", false, "switch it on again") }},
		{name: "app remove", args: "ID", nargs: [2]int{1, 1}, short: "remove an application with its sessions", run: runAppRemove},
		{name: "keys list", data: true, short: "list the keys that sign ID tokens", run: runKeysList},
		{name: "keys rotate", short: "make the next key for ID tokens", run: runKeysRotate,
			long: "Makes the next key, which is published at once and signs in a day. This happens by itself\nevery 90 days. --now is for a key that was stolen: the new one signs at once, and what the\nold ones signed is not taken any more.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.sso.Now, "now", false, "let it sign at once, and drop the keys before it")
			}},
		{name: "notice", data: true, args: "USER TEXT", nargs: [2]int{0, -1}, short: "tell somebody, or everybody, something as the server", run: runNotice,
			long: "Sends a text into the person's room of notices, which is made for the first one. They can\nread it and not leave. holdfast notice --all TEXT tells everybody who has an account, but\nnot the users of bridges. TEXT may be - to read it from standard input.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.all, "all", false, "tell everybody")
				f.StringVar(&c.noticeID, "id", "", "a `word` of your own: who was told with it is not told again")
			}},
		{name: "notices set", data: true, short: "say how notices look, and whether people may answer", run: runNoticesSet,
			long: "Changes the rules for notices. What is not named stays as it is. A room that there is\nfollows with its next notice.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.notices.Name, "name", "", "who speaks: a `name` (standard: the organisation's)")
				f.StringVar(&c.notices.Avatar, "avatar", "", "the picture: an mxc:// `address` of an uploaded one, or none")
				f.StringVar(&c.notices.RoomName, "room-name", "", "the room's `name`")
				f.StringVar(&c.notices.RoomAvatar, "room-avatar", "", "the room's picture: an mxc:// `address`, or none")
				f.StringVar(&c.notices.Topic, "topic", "", "the room's topic: a `text`, or none")
				f.StringVar(&c.notices.Join, "join", "", "auto: people are in the room at once; ask: they are invited, and cannot decline (`how`)")
				f.StringVar(&c.notices.Reply, "reply", "", "whether people may write in their room: yes or no (`which`)")
			}},
		{name: "notices show", data: true, short: "print the rules for notices", run: runNoticesShow},
		{name: "previews set", data: true, short: "have links previewed or not, and of which hosts", run: runPreviewsSet,
			long: "Changes the rules for previews of links; they hold at once. What is not named stays as it\nis. With previews the server itself fetches the pages that people's links lead to, and\nlearns which they are. Lists have commas between their entries; a host is a name, *.NAME\nfor all names below it, an IP address, or a range such as 10.1.0.0/16.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.StringVar(&c.previews.Enabled, "enabled", "", "on or off (`state`; standard: off)")
				f.StringVar(&c.previews.Allow, "allow", "", "only these `hosts`, or all")
				f.StringVar(&c.previews.Deny, "deny", "", "not these `hosts`, or none")
				f.StringVar(&c.previews.Private, "private", "", "`hosts` that may be in your private network, or none")
				f.StringVar(&c.previews.Ports, "ports", "", "`ports` besides 80 and 443, or none")
				f.StringVar(&c.previews.Space, "space", "", "what the previews' pictures may take on the disk (`size`; standard: 1G)")
			}},
		{name: "previews show", data: true, short: "print the rules for previews of links", run: runPreviewsShow},
		{name: "previews test", data: true, args: "URL", nargs: [2]int{1, 1}, short: "fetch a page as for a preview", run: runPreviewsTest,
			long: "Fetches a page as the server does for a preview, also while previews are off, and prints\nwhat it found or the whole reason why there is no preview. Nothing is kept."},
		{name: "mail off", short: "send no e-mail any more", run: runMailOff},
		{name: "install", short: "make it a service of this Linux system", run: runInstall,
			long:  "Puts this program at /usr/local/bin/holdfast, writes a hardened systemd unit, an account\nwithout a login and /etc/holdfast/appliance.toml, and starts the service. Called again with\na newer program it is the update. Data and configuration that are there stay.",
			flags: func(f *flag.FlagSet, c *cli) { dryRunFlag(f, c) }},
		{name: "uninstall", short: "remove the service; the data stays", run: runUninstall,
			long:  "Stops and removes what install wrote, apart from data, configuration and account.",
			flags: func(f *flag.FlagSet, c *cli) { dryRunFlag(f, c) }},
		{name: "config print", data: true, short: "print the configuration in effect", run: runConfigPrint,
			long: "Prints every key with its value and where it came from: the file, the environment\n(HOLDFAST_...) or --set. Secrets are left out.",
			flags: func(f *flag.FlagSet, c *cli) {
				f.BoolVar(&c.template, "template", false, "print an appliance.toml with all keys, explained")
			}},
	}
}

func roleFlags(f *flag.FlagSet, c *cli) {
	f.Var(list{&c.roles}, "role", "a `role` of the account: owner, admin, moderator or auditor; may be repeated")
	f.Var(list{&c.groups}, "group", "a `group` that the account is put into; may be repeated")
}

func groupFlag(f *flag.FlagSet, c *cli) {
	f.StringVar(&c.group, "group", "", "a group's `name`, instead of a user")
}

func dryRunFlag(f *flag.FlagSet, c *cli) {
	f.BoolVar(&c.dryRun, "dry-run", false, "only tell what would be done")
}

func passwordFlags(f *flag.FlagSet, c *cli) {
	f.StringVar(&c.password, "password", "", "the `password`; others on this machine may see it, so prefer --password-stdin")
	f.BoolVar(&c.passwordStdin, "password-stdin", false, "read the password from standard input")
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	all := commands()
	if len(args) == 0 {
		usage(out, all)
		return exitUsage
	}
	if args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	if isHelp(args[0]) {
		usage(out, all)
		return exitOK
	}
	if args[0] == "--version" {
		args = append([]string{"version"}, args[1:]...)
	}
	cmd, rest := match(all, args)
	if cmd == nil {
		// The first word alone may be that of several commands: "user".
		several := slices.DeleteFunc(slices.Clone(all), func(c command) bool { return !strings.HasPrefix(c.name, args[0]+" ") })
		switch {
		case len(several) > 0 && len(args) > 1 && isHelp(args[1]):
			usage(out, several)
			return exitOK
		case len(several) > 0 && len(args) == 1:
			usage(errOut, several)
			return exitUsage
		}
		called, hint := unknown(all, args)
		fmt.Fprintf(errOut, "holdfast: there is no command %q. %s`holdfast help` lists all.\n", called, hint)
		return exitUsage
	}
	c := &cli{out: out, err: errOut}
	err := c.runCommand(ctx, cmd, rest)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	}
	var ue *usageError
	var ce *config.Error
	switch {
	case errors.As(err, &ue):
		fmt.Fprintf(errOut, "holdfast %s: %s\nMore: holdfast %s --help\n", cmd.name, ue.msg, cmd.name)
		return exitUsage
	case errors.As(err, &ce):
		fmt.Fprintf(errOut, "The configuration cannot be used:\n")
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(errOut, "  %s\n", line)
		}
		return exitUsage
	case errors.Is(err, errNotRunning):
		fmt.Fprintf(errOut, "holdfast %s: %v\n", cmd.name, err)
		return exitNoServ
	}
	fmt.Fprintf(errOut, "holdfast %s: %v\n", cmd.name, err)
	return exitFailed
}

func isHelp(s string) bool { return s == "--help" || s == "-help" || s == "-h" }

// unknown is what was called that is no command, and the nearest one.
func unknown(all []command, args []string) (called, hint string) {
	words := args[:1]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		words = args[:2]
	}
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	called = strings.Join(words, " ")
	best := config.Nearest(called, names)
	if best == "" {
		best = config.Nearest(args[0], names)
	}
	if best != "" {
		hint = fmt.Sprintf("Did you mean %s? ", best)
	}
	return called, hint
}

// match finds the command that the first words name.
func match(all []command, args []string) (*command, []string) {
	for i := range all {
		words := strings.Fields(all[i].name)
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return &all[i], args[len(words):]
		}
	}
	return nil, nil
}

func usage(w io.Writer, all []command) {
	fmt.Fprintf(w, "Holdfast: chat, calls and single sign-on from one program.\n\nusage: holdfast COMMAND [options]\n\n")
	for _, c := range all {
		fmt.Fprintf(w, "  %-22s %s\n", strings.TrimSpace(c.name+" "+c.args), c.short)
	}
	fmt.Fprintf(w, "\nholdfast COMMAND --help explains a command. Configuration: holdfast config print.\n")
}

func (c *cli) runCommand(ctx context.Context, cmd *command, args []string) error {
	f := flag.NewFlagSet("holdfast "+cmd.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.in.Data, "data", "", "the data `folder` (short for --set data=FOLDER)")
	f.StringVar(&c.in.File, "config", "", "the configuration `file`; else appliance.toml in the data folder or in /etc/holdfast")
	f.Var(setFlag{&c.in.Set}, "set", "`key=value` of the configuration; may be repeated")
	if cmd.data {
		f.BoolVar(&c.json, "json", false, "print JSON")
	}
	if cmd.flags != nil {
		cmd.flags(f, c)
	}
	var pos []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				help(c.out, cmd, f)
				return err
			}
			return &usageError{flagProblem(err, f)}
		}
		if f.NArg() == 0 {
			break
		}
		pos = append(pos, f.Arg(0)) // options may follow arguments
		args = f.Args()[1:]
	}
	if len(pos) < cmd.nargs[0] {
		return &usageError{"say which " + cmd.args}
	}
	if cmd.nargs[1] >= 0 && len(pos) > cmd.nargs[1] {
		return &usageError{fmt.Sprintf("%q is too much", pos[cmd.nargs[1]])}
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	if given["data"] && c.in.Data == "" {
		return &usageError{"--data names no folder"} // an empty variable in a script, perhaps
	}
	if given["config"] && c.in.File == "" {
		return &usageError{"--config names no file"}
	}
	c.in.Env = os.Environ()
	return cmd.run(ctx, c, pos)
}

// flagProblem says what package flag complains about as the rest of the command
// line does: options have two hyphens here.
func flagProblem(err error, f *flag.FlagSet) string {
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var names []string
		f.VisitAll(func(fl *flag.Flag) { names = append(names, fl.Name) })
		msg := "there is no option --" + name
		if best := config.Nearest(name, names); best != "" {
			msg += "; did you mean --" + best + "?"
		}
		return msg
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		return "--" + name + " needs a value"
	}
	return strings.Replace(err.Error(), " for flag -", " for --", 1)
}

func help(w io.Writer, cmd *command, f *flag.FlagSet) {
	fmt.Fprintf(w, "usage: holdfast %s [options]\n\n", strings.TrimSpace(cmd.name+" "+cmd.args))
	if cmd.long != "" {
		fmt.Fprintln(w, cmd.long)
	} else {
		fmt.Fprintln(w, strings.ToUpper(cmd.short[:1])+cmd.short[1:]+".")
	}
	fmt.Fprintln(w, "\nOptions:")
	f.VisitAll(func(fl *flag.Flag) {
		name, text := flag.UnquoteUsage(fl)
		if name != "" {
			name = " " + name
		}
		if fl.DefValue != "" && fl.DefValue != "false" && fl.DefValue != "0" {
			text += " (default " + fl.DefValue + ")"
		}
		fmt.Fprintf(w, "  %-24s %s\n", "--"+fl.Name+name, text)
	})
}

func runServe(ctx context.Context, c *cli, _ []string) error {
	cfg, err := config.Load(c.in)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tuneMemory()
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may go away
	// Nobody else on the machine reads what the appliance writes; and with an odd
	// umask it could not read its own folders.
	syscall.Umask(0o077)
	a, err := Start(ctx, cfg, c.out, c.err)
	if err != nil {
		return err
	}
	if err := tellSystemd("READY=1"); err != nil {
		a.log.Warn("the service manager cannot be told that the appliance is ready", "err", err)
	}
	go a.keepAlive(ctx)
	err = a.Wait(ctx)
	stop() // a second signal ends the program at once
	tellSystemd("STOPPING=1")
	a.Close()
	return err
}

// tuneMemory makes the collector run often while the heap is small: the appliance
// is meant for small machines. GOGC overrides it.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(75)
	}
}

func runVersion(_ context.Context, c *cli, _ []string) error {
	if c.json {
		return c.printJSON(map[string]string{"version": Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
	}
	fmt.Fprintf(c.out, "holdfast %s (%s, %s/%s)\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
