package bulk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

func wide(s string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

// What spreadsheets, personnel offices, Active Directory and Entra export is read
// without being told what it is.
func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, list string
		people     string // subject|name|full|groups|disabled, a line each
		problems   string // line: text
		format     string
	}{
		{"a small table", "username,displayname,groups\nanna,Anna Meyer,Nurses;Ward 3\n\nbob,Bob,\n",
			"name:anna|anna|Anna Meyer|Nurses;Ward 3|false\nname:bob|bob|Bob||false", "", CSV},
		{"a German spreadsheet", "sep=;\r\nBenutzername;Vorname;Nachname;Gruppen;aktiv\r\nA.Meyer;J\xfcrgen;M\xfcller;\"Pflege | Station 3\";ja\r\nb;B;;;nein\r\n",
			"name:a.meyer|a.meyer|Jürgen Müller|Pflege;Station 3|false\nname:b|b|B||true", "", CSV},
		{"Entra", "\xef\xbb\xbfuserPrincipalName,displayName,surname,mail,givenName,objectId,userType,accountEnabled\n" +
			"Anna.Meyer@town.example,Anna Meyer,Meyer,mail@town.example,Anna,0C54AB6D-0000-4000-8000-000000000001,Member,True\n" +
			"eve_evil.test#EXT#@town.example,Eve,,,,0c54ab6d-0000-4000-8000-000000000002,Guest,True\n" +
			"bob@town.example,Bob,,,,0c54ab6d-0000-4000-8000-000000000003,Member,False\n",
			"0c54ab6d-0000-4000-8000-000000000001|anna.meyer|Anna Meyer||false\n0c54ab6d-0000-4000-8000-000000000003|bob|Bob||true",
			"3: eve_evil.test#EXT#@town.example is a guest of another organisation", CSV},
		{"csvde", "DN,objectClass,sAMAccountName,displayName,userAccountControl,objectGUID,memberOf\n" +
			"\"CN=Anna,DC=x\",user,Anna,Anna Meyer,512,X'0a0b0c0d0e0f01020304050607080910',\"CN=Nurses,OU=G,DC=x;CN=Ward 3,DC=x\"\n" +
			"\"CN=PC1,DC=x\",computer,PC1$,,4096,X'00',\n\"CN=Bob,DC=x\",user,bob,Bob,514,X'01',\n",
			"0a0b0c0d0e0f01020304050607080910|anna|Anna Meyer|Nurses;Ward 3|false\n01|bob|Bob||true", "", CSV},
		{"Export-Csv", wide("#TYPE Microsoft.ActiveDirectory.Management.ADUser\r\n\"DistinguishedName\",\"Enabled\",\"Name\",\"ObjectClass\",\"ObjectGUID\",\"SamAccountName\"\r\n\"CN=Anna,DC=x\",\"True\",\"Anna Meyer\",\"user\",\"{0C54AB6D-1}\",\"Anna\"\r\n"),
			"0c54ab6d-1|anna|Anna Meyer||false", "", CSV},
		{"LDIF", "version: 1\r\n# people\r\ndn: uid=anna,dc=x\r\nobjectClass: top\r\nobjectClass: inetOrgPerson\r\nuid: anna\r\ncn:: QW5uYSBNw7xsbGVy\r\nentryUUID: 0C54\r\n -1\r\nmemberOf: cn=Nurses,dc=x\r\nmemberOf: cn=Ward 3,dc=x\r\n\r\n" +
			"dn: ou=people,dc=x\r\nobjectClass: organizationalUnit\r\nou: people\r\n\r\ndn: cn=bob,dc=x\r\nobjectClass: user\r\nsAMAccountName: Bob\r\nuserAccountControl: 66050\r\nobjectGUID:: AAECAwQFBgcICQoLDA0ODw==\r\n",
			"0c54-1|anna|Anna Müller|Nurses;Ward 3|false\n000102030405060708090a0b0c0d0e0f|bob|||true", "", LDIF},
		{"what cannot be taken", "id,username,displayname,enabled,groups\n1,anna,Anna,yes,\n2,,Nobody,yes,\n3,ANNA,Another,yes,\n1,bob,Bob,yes,\n4,carl,Carl,perhaps,\n5,dora,\"a\x07\",yes,\n6,e,E,yes,g,h\n",
			"1|anna|Anna||false",
			"3: there is no user name\n4: the user name anna is that of line 2, too\n5: the number of bob is that of line 2, too\n6: carl: \"perhaps\" in the column enabled is neither yes nor no\n7: dora: a value has control characters\n8: there are more values than columns", CSV},
		{"LDIF with changes", "dn: uid=a,dc=x\nchangetype: modify\nuid: a\n\ndn: uid=b,dc=x\nuid: b\ncn:< file:///etc/passwd\n\ndn: uid=c,dc=x\nuid: c\n",
			"name:c|c|||false", "2: the list has changes; export the entries themselves\n7: the value of cn is in another file", LDIF},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Read([]byte(c.list))
			if err != nil {
				t.Fatal(err)
			}
			var people, problems []string
			for _, p := range r.People {
				people = append(people, fmt.Sprintf("%s|%s|%s|%s|%v", p.Subject, p.Name, p.Full, strings.Join(p.Groups, ";"), p.Disabled))
			}
			for _, p := range r.Problems {
				problems = append(problems, fmt.Sprintf("%d: %s", p.Line, p.Text))
			}
			if got := strings.Join(people, "\n"); got != c.people {
				t.Errorf("people\n%s\nwant\n%s", got, c.people)
			}
			if got := strings.Join(problems, "\n"); got != c.problems {
				t.Errorf("problems\n%s\nwant\n%s", got, c.problems)
			}
			if r.Format != c.format {
				t.Error(r.Format)
			}
		})
	}
}

// What is no list is refused as a whole, with the reason.
func TestNoList(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"", "empty"},
		{" \r\n ", "empty"},
		{"PK\x03\x04\x00\x00", "xlsx"},
		{"a,b\n1,2\n", "no column that is known"},
		{"username\n", "nobody in it"},
		{"username,displayname\n,Anna\n", "line 2: there is no user name"},
		{"username,displayname\nanna,\"open\n", "line 2"},
		{"dn: uid=a,dc=x\nuid a\n", "line 2 is no LDIF"},
		{"dn: uid=a,dc=x\ndn: uid=b,dc=x\n", "within another"},
		{"version: 1\nuid: a\n", "begins with its dn"},
		{"username\n" + strings.Repeat("x", MaxBytes), "32 MB"},
	} {
		if _, err := Read([]byte(c.list)); !errors.Is(err, ErrList) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %s", c.list, err, c.want)
		}
	}
	var many strings.Builder
	many.WriteString("username\n")
	for i := range maxPeople + 1 {
		fmt.Fprintf(&many, "u%d\n", i)
	}
	if _, err := Read([]byte(many.String())); !errors.Is(err, ErrList) {
		t.Errorf("too many: %v", err)
	}
}

// Whatever is read, names and numbers are there once, and nothing is longer than it may be.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"username,displayname,groups,enabled,id\nanna,Anna,a;b,yes,1\n", "dn: uid=a,dc=x\nuid: a\ncn:: QQ==\n b\n\n", "\xff\xfeu\x00i\x00d\x00\n\x00a\x00",
		"sep=;\nuid;cn\na;\xfc\n", "#TYPE x\nuid\na\n", "DN,objectClass,uid,userAccountControl\n\"CN=a\",user,a,2\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(b)
		if err != nil {
			if !errors.Is(err, ErrList) {
				t.Fatal(err)
			}
			return
		}
		if len(r.People) == 0 || len(r.Problems) > maxProblems {
			t.Fatal(len(r.People), len(r.Problems))
		}
		names, subjects := map[string]bool{}, map[string]bool{}
		for _, p := range r.People {
			if p.Name == "" || p.Subject == "" || names[p.Name] || subjects[p.Subject] || len(p.Name) > 255 || len(p.Full) > 255 || len(p.Groups) > maxGroups || !slices.IsSorted(p.Groups) {
				t.Fatalf("%+v", p)
			}
			names[p.Name], subjects[p.Subject] = true, true
		}
	})
}
