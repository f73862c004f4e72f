#!/bin/sh
# Prints the version of the working tree: the tag of this commit; after a tag, a
# pre-release of the next version; before there are tags, 0.0.N with N commits. These
# are ordered as image/update compares them. "-dirty" marks changes that are in no
# commit.
set -eu
cd "$(dirname "$0")/.."
hash=$(git rev-parse HEAD 2>/dev/null | cut -c1-7) || hash=
[ -n "$hash" ] || { echo 0.0.0-dev; exit; }
dirty=
git diff --quiet HEAD -- 2>/dev/null || dirty=-dirty
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null) || tag=
if [ -z "$tag" ]; then
	echo "0.0.$(git rev-list --count HEAD)-g$hash$dirty"
	exit
fi
version=${tag#v}
since=$(git rev-list --count "$tag..HEAD")
if [ "$since" = 0 ]; then
	echo "$version$(echo "$dirty" | tr - .)" | sed 's/^\([0-9.]*\)\.dirty$/\1-dirty/'
	exit
fi
release=${version%%-*}
case $version in
*-*) echo "$version.$(printf %04d "$since").g$hash$dirty" ;;
*) echo "${release%.*}.$((${release##*.} + 1))-dev.$(printf %04d "$since").g$hash$dirty" ;;
esac
