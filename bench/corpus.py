#!/usr/bin/env python3
"""Writes real text without near-copies, for the benchmark of retrieval.

The text comes from Debian: first the long description of every package, then
the manual pages, manuals and dictionaries of the packages named in PACKAGES.
They are downloaded by apt-get into the cache folder and read from there; none
is installed, and nothing but the cache folder and the output is written.

    python3 bench/corpus.py --count 100000 --out target/bench/debian-100k.jsonl

Each line of the output is {"id", "title", "text"}. The same versions of the
packages give the same lines, and a shorter run gives the first lines of a
longer one. Remove the cache folder's `lists` to ask for newer versions.
"""

import argparse
import bz2
import gzip
import html
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import unicodedata
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

SHORTEST = 300
"""Characters that a snippet has at least: less says too little to be looked for."""
LONGEST = 1600
"""Characters that a snippet has at most, about what a remembered note holds."""
SPREAD = 150
"""Snippets are closed at SHORTEST plus 0 to SPREAD characters, so that their lengths differ."""
MOST_SEEN = 0.5
"""Share of a snippet's shingles that may have been seen before it is a near-copy."""
SHINGLE = 5
"""Words in a shingle."""
LARGEST_PACKAGE = 400_000_000
"""Bytes of a package that is still downloaded."""
LARGEST_FILE = 8_000_000
"""Bytes of a file that is still read: larger ones are tables or whole books repeated."""
BATCH = 12
"""Packages asked for in one call of apt-get: the call costs about a second, whatever it fetches."""

NOT_ENOUGH = 3
"""Exit code when fewer snippets could be made than were asked for."""

# In the order in which they are read. Manuals and dictionaries come first, for
# a short run; references of programming interfaces, whose pages are more
# alike, come last.
PACKAGE_GROUPS = """
# Manuals, dictionaries and books.
manpages manpages-dev dict-foldoc dict-jargon dict-devil fortunes gnome-user-docs libreoffice-help-en-us
python3.11-doc debian-handbook debian-reference-en developers-reference debian-policy postgresql-doc-15 manpages-zh
crawl-common endless-sky-data perl-doc wordnet-base anarchism linux-doc-6.1 freebsd-manpages dict-gcide
# Programs, servers and languages.
kate5-data neutron-doc cppreference-doc-en-html debian-faq debmake-doc git-doc apache2-doc exim4-doc-html postfix-doc
bash-doc zsh-doc sqlite3-doc db5.3-doc coreutils util-linux systemd openssh-client openssl erlang-manpages erlang-doc
tcl8.6-doc tk8.6-doc tcllib ncurses-doc xorg-docs mutt nmap gimp-help-en installation-guide-amd64 freedombox-doc-en
harden-doc aptitude-doc-en abs-guide mapproxy-doc translate-toolkit-doc buildbot-doc borgbackup-doc lava-server-doc
nova-doc cinder-doc glance-doc keystone-doc heat-doc ironic-doc manila-doc swift-doc octavia-doc murano-doc senlin-doc
diskimage-builder-doc placement-doc sahara-doc dpdk-doc wireshark-doc kea-doc bind9-doc icinga2-doc shorewall-doc
lemonldap-ng-doc frr-doc rsyslog-doc varnish-doc bacula-doc openafs-doc krb5-doc ntpsec-doc ganeti-doc openvswitch-doc
drbd-doc slurm-wlm-doc nut-doc cargo-doc racket-doc nim-doc crystal-doc pike8.0-doc gambc-doc guile-3.0-doc
mit-scheme-doc chezscheme-doc swi-prolog-doc sbcl-doc clisp-doc cmucl-docs gnustep-base-doc fp-docs-3.2.2
lazarus-doc-2.2 emscripten-doc llvm-15-doc clang-15-doc nodejs-doc coffeescript-doc autoconf-doc automake cmake-doc
scons-doc doxygen-doc swig4.0-doc binutils-doc gettext-doc emacs-common texinfo ada-reference-manual-2012 gprbuild-doc
octave-doc maxima-doc gap-doc giac-doc singular-doc gnuplot-doc r-doc-html povray-doc csound-doc lilypond-doc-html
asymptote-doc graphviz-doc imagemagick-6-doc ffmpeg-doc mplayer-doc grass-doc postgis-doc kicad-doc-en openms-doc
puredata-doc snd-doc denemo-doc weechat-doc proftpd-doc kmail kmymoney-common groonga-doc netcdf-doc appstream-doc pdl
spamassassin netpbm graphicsmagick texlive-binaries texlive-base po4a devscripts debhelper dpkg-dev apt lvm2 mdadm
btrfs-progs xfsprogs e2fsprogs iproute2 openvpn sudo mariadb-client slapd dovecot-core cyrus-common inn2 groff
docbook-xsl-doc-html valgrind linux-perf perl-tk tcsh ksh93u+m mksh gnupg tklib blt-dev freeciv-data wesnoth-1.16-utbs
vim-runtime mercurial-common krusader autogen-doc gnu-standards c++-annotations-html mh-book telepathy-specification
kannel-docs mailfromd-doc mailutils-doc shishi-doc plc-utils-doc wireplumber-doc aplus-fsf-doc why3-doc-html
doublecmd-help-en allegro4-doc allegro5-doc gmsh-doc linux-doc-6.12 systemtap-doc docker-doc kitty-doc yard-doc
user-mode-linux-doc xen-doc mopidy-doc beets-doc ovn-doc plplot-doc freetds-doc xonsh-doc prover9-doc ceres-solver-doc
pikepdf-doc lirc-doc gammu-doc janus-doc brz-doc haskell98-report smlnj-doc knot-resolver-doc praw-doc pysph-doc
ghostscript-doc gcl-doc zoneminder-doc fontforge-doc gnustep-gui-doc uhd-doc sip6-doc jenkins-job-builder-doc
cdist-doc dynare-doc xmds2-doc sonic-pi-server-doc awesome-doc udisks2-doc texstudio-doc pcb-rnd-doc lp-solve-doc
rust-web-doc borgbackup wesnoth-1.16-httt wesnoth-1.16-trow wesnoth-1.16-nr wesnoth-1.16-low wesnoth-1.16-tsg
wesnoth-1.16-sof wesnoth-1.16-sotbe wesnoth-1.16-sota wesnoth-1.16-dm m4-doc iptables konqueror kile-doc
debian-edu-doc-en live-manual-html watcher-doc evolution-common genius-common wsjtx-doc gxemul-doc asciidoctor-doc
getdp speech-tools-doc packagekit-docs
# Libraries of Python.
python-django-doc python-sqlalchemy-doc twisted-doc python-pandas-doc python-scipy-doc python-sklearn-doc
python-statsmodels-doc python-astropy-doc python-sympy-doc python-skimage-doc python-biopython-doc python-dask-doc
python-xarray-doc python-celery-doc python-tornado-doc python-flask-doc python-werkzeug-doc python-pil-doc
python-ipython-doc python-ase-doc python-pymatgen-doc sphinx-doc docutils-doc python-djangorestframework-doc
python-discord-doc python-pytest-doc python-lxml-doc python-psycopg2-doc python-fonttools-doc python-mpmath-doc
python-pygame-doc python-gevent-doc python-tables-doc python-h5py-doc python-qutip-doc python-brian-doc
python-escript-doc python-ezdxf-doc python-scrapy-doc python-cogent-doc python-mdanalysis-doc python-nibabel-doc
python-nipype-doc python-astroquery-doc python-lmfit-doc python-pydicom-doc python-skbio-doc python-vispy-doc
python-distributed-doc python-openstacksdk-doc numba-doc renpy-doc pylint-doc snakemake-doc python-openstackclient-doc
python3-cassandra-doc python3-aioxmpp-doc python-fluids-doc python-kombu-doc pypy3-doc python-cherrypy3-doc
python-hypothesis-doc python-setuptools-doc python-urwid-doc python-peewee-doc python-slixmpp-doc python-pyqtgraph-doc
pyro4-doc python-tango-doc python-ruffus-doc python-silx-doc python-taskflow-doc python-aiohttp-doc python-pymongo-doc
python-cryptography-doc python-apsw-doc python-typer-doc python-whoosh-doc mypy-doc python-psycopg-doc
python-certbot-doc python-structlog-doc python-quart-doc python-can-doc python-pygments-doc python-git-doc
# Libraries of Perl.
libmoose-perl libcatalyst-manual-perl libdbix-class-perl libmojolicious-perl libpoe-perl libdbi-perl libtemplate-perl
libdancer2-perl libperl-critic-perl libmail-box-perl libppi-perl libimage-exiftool-perl libimager-perl
libbio-perl-perl libtype-tiny-perl libmath-planepath-perl libhtml-formhandler-perl libexcel-writer-xlsx-perl
libmarpa-r2-perl libnet-ldap-perl librose-db-object-perl libsnmp-info-perl libvm-ec2-perl libconfig-model-perl
libmongodb-perl libpdf-builder-perl libcatalyst-perl libtest2-suite-perl libmath-prime-util-perl libguestfs-perl
# Libraries of C and C++.
qtbase5-doc-html libssl-doc libvirt-doc libstdc++-12-doc libtool-doc libboost1.74-doc qtdeclarative5-doc-html
qt5-doc-html qtquickcontrols2-5-doc-html qttools5-doc-html qtmultimedia5-doc-html qtwebengine5-doc-html
qtcharts5-doc-html qt3d5-doc-html qtlocation5-doc-html qtconnectivity5-doc-html qtcreator-doc libgtk-3-doc
libgtk-4-doc libglib2.0-doc libgtk2.0-doc gnome-devel-docs libcairo2-doc libpango1.0-doc libx11-doc wx3.2-doc
fltk1.3-doc efl-doc libeigen3-doc petsc3.18-doc libcamera-doc icu-doc gnutls-doc libgcrypt20-doc gsoap-doc
libcurl4-doc xapian-doc libapache2-mod-perl2-doc pipewire-doc gtkmm-documentation dbus-1-doc fwupd-doc libreswan
libibverbs-dev libsystemd-dev ogre-1.12-doc libtelepathy-glib-doc evolution-data-server-doc libharfbuzz-doc
libsoup2.4-doc libclutter-1.0-doc libgda-5.0-doc libtracker-doc libqmi-glib-doc libnm-dev libgimp2.0-doc
libgwyddion20-doc openmpi-doc libmongoc-doc libnghttp2-doc libtorrent-rasterbar-doc libvips-doc libxml2-doc
libxerces-c-doc freetype2-doc libtiff-doc libhwloc-doc libopenexr-doc geographiclib-doc libtbb-doc libbotan-2-doc
libigraph-doc libfox-1.6-doc cyclonedds-doc libadwaita-1-doc omniorb-doc nettle-dev libostree-doc libgeos-doc
libmpfr-doc libasound2-doc
# Libraries of Java.
openjdk-17-doc derby-doc groovy-doc jython-doc gradle-doc ant-doc tomcat10-docs libcommons-math3-java-doc
libcommons-lang3-java-doc libcommons-collections4-java-doc libjfreechart-java-doc libapache-poi-java-doc
libbiojava-java-doc libxerces2-java-doc libsaxonb-java-doc libxalan2-java-doc fop-doc libpdfbox-java-doc
libhsqldb-java-doc uima-doc weka-doc topcat-doc jmeter-help libopenjfx-java-doc checkstyle-doc libswingx-java-doc
libjackson-json-java-doc libjts-java-doc liblogback-java-doc libij-java-doc libzookeeper-java-doc libhtsjdk-java-doc
libjide-oss-java-doc libjava3d-java-doc libaxis-java-doc libcastor-java-doc libjaxb-java-doc libpixelmed-java-doc
libjung-free-java-doc libbiojava4-java-doc libjmol-java-doc libosgi-core-java-doc libosgi-compendium-java-doc
libcommons-httpclient-java-doc libpal-java-doc libjsf-java-doc libpicard-java-doc antlr4-doc velocity-doc junit4-doc
libh2-java-doc libpostgresql-jdbc-java-doc stilts-doc libcommons-io-java-doc libcolt-free-java-doc libjsoup-java-doc
ivy-doc
# Libraries of Haskell.
libghc-lens-doc libghc-shake-doc libghc-xmonad-contrib-doc libghc-hledger-lib-doc libghc-propellor-doc
libghc-persistent-doc libghc-diagrams-lib-doc libghc-what4-doc libghc-sbv-doc libghc-gi-gtk-doc libghc-gi-gio-doc
libghc-clash-prelude-doc ghc-doc
# Text inside programs: Python, Go, Emacs Lisp.
ansible python3-botocore emacs-el golang-golang-x-tools-dev golang-google-cloud-dev golang-github-vmware-govmomi-dev
golang-gvisor-gvisor-dev golang-mongodb-mongo-driver-dev golang-github-openshift-api-dev
golang-github-syncthing-syncthing-dev golang-github-snapcore-snapd-dev golang-github-rclone-rclone-dev
golang-github-influxdb-influxdb-dev python3-numpy python3-scipy python3-matplotlib python3-sympy python3-pandas
python3-networkx python3-astropy python3-sklearn python3-statsmodels python3-torch python3-mne python3-satpy
python3-nltk python3-dipy python3-biopython python3-ase python3-pymatgen python3-qutip python3-rdkit python3-vedo
python3-sunpy python3-scapy python3-silx python3-libcloud python3-boto python3-nova python3-cinder python3-neutron
python3-ironic python3-tempest python3-wxgtk4.0 python3-opengl python3-pyglet python3-sage python3-openturns
python3-hyperspy python3-yt python3-cctbx python3-graph-tool python3-breezy python3-neo python3-dask python3-xarray
python3-pwntools python3-kivy python3-nipy python3-cogent3 python3-gensim python3-docutils python3-twisted
python3-asyncssh python3-paramiko python3-photutils python3-gammapy python3-dials python3-traits python3-ipython
python3-pip python3-setuptools python3-django python3-sqlalchemy golang-google-api-dev golang-1.19-src
libpython3.11-stdlib golang-github-docker-docker-dev golang-github-containers-common-dev
golang-github-containers-image-dev golang-github-containers-storage-dev golang-github-containers-buildah-dev
golang-golang-x-net-dev golang-golang-x-crypto-dev golang-golang-x-text-dev golang-github-google-gopacket-dev
golang-github-dgraph-io-badger-dev golang-github-prometheus-client-golang-dev golang-google-grpc-dev
golang-goprotobuf-dev golang-etcd-server-dev golang-github-google-go-github-dev golang-github-pion-webrtc.v3-dev
auctex elpa-ess slime wl mew elpa-magit elpa-helm elpa-lsp-mode elpa-evil w3m-el elpa-notmuch elpa-ebib mu4e
elpa-jabber elpa-haskell-mode ansible-core python3-numba python3-sfepy python3-ginga python3-falcon python3-glue
python3-os-ken python3-swift python3-cassandra python3-seaborn python3-sphinx python3-samba python3-mdanalysis
python3-manila python3-distributed python3-cartopy
"""
PACKAGES = [name for line in PACKAGE_GROUPS.splitlines() if not line.startswith("#") for name in line.split()]


class Unusable(Exception):
    """What keeps the script from running; the message names the remedy."""


# --- What is prose ----------------------------------------------------------

COMMON_WORDS = frozenset(
    "a about after all also an and any are as at be been but by can do does each for from has have"
    " how if in into is it its may more most must no not of on one only or other out over should so"
    " some such than that the their them then there these they this to up use used using was were"
    " what when where which while who will with would you your".split()
)
LEGAL = re.compile(
    r"permission is hereby|without (any|even the implied) warrant|redistribut|all rights reserved"
    r"|copyright(ed)? (\(c\)|©|holder|notice|\d{4}|by)|©|public license|licensed under|(this|the) software is provided"
    r"|trademark|creative commons|merchantability|apache license|bsd license|mit license|gnu free documentation",
    re.IGNORECASE,
)
FURNITURE = re.compile(
    r"^(generated (by|on|at|from)|last (updated|modified|change)|created using|table of contents|click here"
    r"|next:|previous:|up:|prev |definition at line|references? [\w:]+|referenced by|this page (was|is)"
    r"|inheritance diagram|collaboration diagram|the documentation for this (class|struct|union|file)"
    r"|include dependency|skip to|report (a )?bugs?|all classes implemented|scripting on this page|javascript is"
    r"|.* more\.\.\.$)",
    re.IGNORECASE,
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
WORD = re.compile(r"[^\W\d_]+")
NOT_TEXT = re.compile(r"[^\w\s.,;:'’“”\"()-]|[\d_]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"“])|(?<=。)")
SPACE = re.compile(r"\s+")
CHINESE_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\s+(?=[\u3000-\u9fff\uff00-\uffef])")


def tidy(text):
    """One paragraph on one line; Chinese characters of neighbouring lines stand together."""
    text = SPACE.sub(" ", text).strip().replace("\u200b", "").replace("\u00ad", "")
    return CHINESE_BREAK.sub("", text) if CHINESE.search(text) else text


def is_prose(paragraph):
    """Whether a paragraph is sentences in English or Chinese, and neither a table, code nor a licence."""
    if len(CHINESE.findall(paragraph)) > 0.3 * len(paragraph):
        return len(paragraph) >= 15 and not LEGAL.search(paragraph)
    if len(paragraph) < 30 or len(NOT_TEXT.findall(paragraph)) > 0.12 * len(paragraph):
        return False
    words = WORD.findall(paragraph.lower())
    if len(words) < 6 or max(map(len, words)) > 40 or not is_whole(paragraph, len(words)):
        return False
    common = sum(word in COMMON_WORDS for word in words)
    return common >= 0.2 * len(words) and not LEGAL.search(paragraph) and not FURNITURE.search(paragraph)


def is_whole(paragraph, words):
    """Whether a paragraph of this many words is more than a heading, a link or an introduction to code."""
    if paragraph.endswith(":"):
        return words >= 14
    return paragraph.endswith((".", "!", "?", ";", ")", "”", '"', "'", "’", "…")) or words >= 20


# --- From a document to snippets --------------------------------------------

PLAIN_PARTS = re.compile(
    r"^(authors?|copyright.*|licen[cs]e.*|see also|reporting bugs|bugs? reports?|colophon|synopsis|name|library|credits"
    r"|conforming to|standards|availability|maintainers?|acknowledge?ments?|references|bibliography|legal.*|index"
    r"|contents|table of contents|contributors|translat.*|trademarks?|changelog|change log|navigation"
    r"|about this document|名称|名字|名|总览|總覽|概要|概述|语法|語法|版权.*|著作权|作者|参见|又见|譯者|参考|中文版.*|.*跋|翻译.*)$",
    re.IGNORECASE,
)


class Document:
    """A page: its name in the package, its title, and its sections, each a heading with paragraphs."""

    def __init__(self, name, title):
        self.name = name
        self.title = title
        self.sections = []
        self.section("")

    def section(self, heading):
        """Begins a section; one that no reader looks for takes no paragraphs."""
        heading = tidy(heading).strip(" ¶#:")
        self.skipping = bool(PLAIN_PARTS.match(heading.lstrip("0123456789. ")))
        self.sections.append((heading[:100], []))

    def add(self, text, label=""):
        """Adds a paragraph if it is prose; the label is the term or option that it explains."""
        text = tidy(text).replace("¶", "")
        if self.skipping or not is_prose(text):
            return
        label = tidy(label).replace("¶", "").strip(" :")
        self.sections[-1][1].append(f"{label}: {text}" if 0 < len(label) <= 80 else text)

    def add_entry(self, headword, text):
        """Adds an entry of a dictionary, which need not be a sentence, as a section of its own."""
        if not LEGAL.search(text):
            self.sections.append((headword[:100], [f"{headword}: {text}"]))

    def title_of(self, heading):
        """The title of a snippet that begins in the section with this heading."""
        if not heading or heading in self.title:
            return self.title or self.name.rsplit("/")[-1]
        return heading if not self.title or self.title in heading else f"{self.title} - {heading}"


def pieces(paragraph):
    """The paragraph, cut between sentences into runs of about half of LONGEST where it is too long."""
    if len(paragraph) <= LONGEST:
        return [paragraph]
    runs = [""]
    for sentence in SENTENCE_END.split(paragraph):
        if runs[-1] and len(runs[-1]) + len(sentence) >= LONGEST // 2:
            runs.append("")
        runs[-1] = f"{runs[-1]} {sentence}".strip()
    return [run for run in runs if len(run) <= LONGEST]


def labelled_pieces(document):
    """The document's pieces as (heading, whether the section begins with it, piece)."""
    for heading, paragraphs in document.sections:
        for place, piece in enumerate(piece for paragraph in paragraphs for piece in pieces(paragraph)):
            yield heading, place == 0, piece


def cut(document):
    """The document's snippets as (title, text), of SHORTEST to LONGEST characters.

    A section that is too short on its own is continued by the next, whose
    heading then stands before its first paragraph.
    """
    lines, size, title, target = [], 0, "", SHORTEST
    for heading, begins, piece in labelled_pieces(document):
        if lines and begins and heading and not piece.startswith(heading):
            labelled = f"{heading}: {piece}"
        else:
            labelled = piece
        if lines and (size >= (SHORTEST if begins else target) or size + 1 + len(labelled) > LONGEST):
            if size >= SHORTEST:
                yield title, "\n".join(lines)
            lines, size, labelled = [], 0, piece
        if not lines:
            title = document.title_of(heading)
            target = SHORTEST + zlib.crc32(piece.encode()) % SPREAD
        size += len(labelled) + bool(lines)
        lines.append(labelled)
    if size >= SHORTEST:
        yield title, "\n".join(lines)


# --- HTML, DocBook and Mallard ----------------------------------------------

UNREAD = re.compile(rb"<(script|style|nav|pre|svg|noscript|math)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
INLINE = re.compile(
    rb"</?(a|abbr|acronym|b|big|cite|code|em|font|i|img|input|kbd|link|meta|samp|small|span|strong|sub|sup|tt|u|var)"
    rb"(\s[^<>]*)?/?>",
    re.IGNORECASE,
)
"""Tags within a line. They are most of the tags of a page, and html.parser is slow, so they never reach it."""
FOREIGN = re.compile(rb"<html[^>]*\slang=[\"']?(?!en|\")[a-z]", re.IGNORECASE)
CHARSET = re.compile(rb"charset=[\"']?(iso-8859-1|windows-1252|latin1)", re.IGNORECASE)
SITE_NAME = re.compile(
    r"\s+\|\s.*$|\s+[-—–|]\s+[^—–|]*(documentation|manual|reference|handbook|guide|help)[^—–|]*$"
    r"|\s+\([^()]*(API|JDK|Javadoc|documentation)[^()]*\)$", re.IGNORECASE
)
SKIPPED_TAGS = frozenset(
    "script style nav header footer pre svg form select button math noscript aside object textarea"
    " programlisting screen literallayout synopsis cmdsynopsis funcsynopsis info bookinfo articleinfo legalnotice"
    " indexterm revhistory mediaobject inlinemediaobject media credit graphic bibliography".split()
)
SKIPPED_CLASSES = re.compile(
    r"(^|[ _-])(headerlink|sphinxsidebar|related|toc\w*|nav\w*|sidebar\w*|footer|header|breadcrumbs?|copyright|summary"
    r"|literalblock|highlight|memproto|fragment|inherit\w*|alignedsummary|editsection|member-signature|footnotes?"
    r"|index\w*|menu\w*|t-navbar.*|t-dcl.*|subnavlist|topnav|bottomnav|skipnav|memberdecls|synopsis"
    r"|dyncontent|memitem\w*|versionmodified)($|[ _-])"
)
ENTITY = re.compile(r"&([A-Za-z][\w.-]*);")
"""A word that DocBook declares elsewhere, mostly the name of a program: the name of the entity says enough."""
BLOCK_TAGS = frozenset(
    "p div li dt dd td th tr h1 h2 h3 h4 h5 h6 blockquote section article ul ol dl table main body title"
    " para simpara listitem term item varlistentry itemizedlist orderedlist variablelist row entry caption"
    " sect1 sect2 sect3 sect4 chapter note tip page subtitle desc hr center refsect1 refsect2 refnamediv".split()
)
HEADINGS = frozenset("h1 h2 h3 h4 h5 h6 title".split())
LABELS = frozenset("dt term".split())
FURNITURE_TAGS = frozenset("div section ul ol dl table tr td p".split())


class Page(HTMLParser):
    """Reads the paragraphs of a page into a document and leaves out what surrounds them."""

    def __init__(self, document):
        super().__init__()
        self.document = document
        self.words = []
        self.label = ""
        self.block = ""
        self.skipped = ""
        self.depth = 0

    def handle_starttag(self, tag, attributes):
        """Leaves the element out, or begins a paragraph, when its tag says so."""
        if self.depth and not self.is_content(tag, attributes):
            self.depth += tag == self.skipped
            return
        self.depth = 0
        if tag in SKIPPED_TAGS or self.is_furniture(tag, attributes):
            self.skipped, self.depth = tag, 1
        elif tag in BLOCK_TAGS:
            self.close()
            self.block = tag
        elif tag == "br":
            self.words.append(" ")

    def handle_startendtag(self, tag, attributes):
        """Sees the end of a line; nothing else that is empty has text."""
        if tag == "br" and not self.depth:
            self.words.append(" ")

    def handle_endtag(self, tag):
        """Ends what was left out, or a paragraph."""
        if self.depth:
            self.depth -= tag == self.skipped
        elif tag in BLOCK_TAGS:
            self.close()

    def handle_data(self, data):
        """Keeps the text of what is read."""
        if not self.depth:
            self.words.append(data)

    def is_furniture(self, tag, attributes):
        """Whether an element is named as part of what every page shows."""
        return tag in FURNITURE_TAGS and any(
            name in ("class", "id") and value and SKIPPED_CLASSES.search(value) for name, value in attributes
        )

    def is_content(self, tag, attributes):
        """Whether the content begins here, though what was left out before has not been closed."""
        return self.skipped in FURNITURE_TAGS and (tag in ("h1", "main") or ("role", "main") in attributes)

    def close(self):
        """Ends the paragraph, heading or term that is being read."""
        text = ENTITY.sub(r"\1", "".join(self.words))
        self.words.clear()
        block, self.block = self.block, ""
        if not text.strip():
            return
        if block in HEADINGS:
            self.head(block, text)
        elif block in LABELS:
            self.label = text
        else:
            self.document.add(text, self.label)
            self.label = ""

    def head(self, block, text):
        """Begins a section, or names the page when it has no title yet."""
        self.label = ""
        if self.document.title:
            self.document.section(text)
        else:
            self.document.title = SITE_NAME.sub("", tidy(text).strip(" ¶#"))[:120]


def read_html(name, data):
    """A page of HTML, DocBook or Mallard as a document."""
    if FOREIGN.search(data[:2000]):
        return []
    page = Page(Document(name, ""))
    encoding = "cp1252" if CHARSET.search(data[:2000]) else "utf-8"
    page.feed(INLINE.sub(b"", UNREAD.sub(b" ", data)).decode(encoding, "replace"))
    page.close()
    return [page.document]


# --- Manual pages -----------------------------------------------------------

ROFF_CHARACTERS = {
    "em": "—", "en": "–", "hy": "-", "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "aq": "'", "dq": '"', "mu": "×",
    "mc": "µ", "de": "°", "->": "→", "<=": "≤", ">=": "≥", "!=": "≠", "+-": "±", "ha": "^", "ti": "~", "rs": "\\",
    "ga": "`", "a^": "^", "12": "½", "14": "¼", "sc": "§", "if": "∞", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü",
    "'e": "é", "`e": "è", "/o": "ø", "oa": "å", "pl": "+", "mi": "-", "eq": "=", "sl": "/", "ba": "|", "or": "|",
}
ROFF_STRINGS = {"lq": "“", "rq": "”", "L\"": "“", "R\"": "”", "T<": "", "C`": "", "C'": "", "--": "—", "Aq": "'"}
ROFF_ESCAPE = re.compile(
    r"\\(?:\((?P<pair>..)|\[(?P<name>[^\]]*)\]|\*(?:\((?P<string>..)|\[(?P<long>[^\]]*)\]|.)"
    r"|f(?:\(..|\[[^\]]*\]|.)|s(?:\[[^\]]*\]|[+-]?\d\d?)|[mMFgkYV](?:\(..|\[[^\]]*\]|.)|n[+-]?(?:\(..|\[[^\]]*\]|.)"
    r"|[AbBCDhHlLNoRSvwxXZ]'[^']*'|(?P<other>.))"
)
ROFF_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
ROFF_KEPT = {"-": "-", "e": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", "_": "_", ".": ".", "\\": "\\"}
ALTERNATING = frozenset("BR RB IR RI BI IB".split())
BREAKS = frozenset("PP LP P sp HP Pp RS RE".split())
UNFILLED = {
    "nf": ("fi", "SH", "Sh"), "EX": ("EE", "SH"), "TS": ("TE",), "EQ": ("EN",), "PS": ("PE",), "de": (".",),
    "de1": (".",), "ig": (".",), "am": (".",), "SY": ("YS", "SH"), "Bd": ("Ed", "Sh"), "CS": ("CE",), "Vb": ("Ve",),
    "DS": ("DE",), "SO": ("SE",), "Fo": ("Fc",),
}
NAME_HEADING = re.compile(r"\s*(name\b|名)", re.IGNORECASE)


def roff_character(match):
    """The text of one escape sequence of roff; fonts, sizes and motions have none."""
    name = match["pair"] or match["name"]
    if name:
        if re.fullmatch("u[0-9A-F]{4,6}", name):
            return chr(int(name[1:], 16))
        return ROFF_CHARACTERS.get(name, "")
    string = match["string"] or match["long"]
    if string:
        return ROFF_STRINGS.get(string, "")
    return ROFF_KEPT.get(match["other"], "")


def roff_text(line):
    """A line of roff without its escape sequences."""
    return ROFF_ESCAPE.sub(roff_character, line) if "\\" in line else line


def roff_arguments(rest):
    """The arguments of a macro, without quotes and escapes."""
    return [roff_text((quoted or plain).replace('""', '"')) for quoted, plain in ROFF_ARGUMENT.findall(rest)]


MDOC_QUOTES = {
    "Dq": "“”", "Qq": '""', "Sq": "‘’", "Ql": "‘’", "Pq": "()", "Bq": "[]", "Aq": "<>", "Brq": "{}", "Op": "[]",
    "Oo": "[]",
}
MDOC_SILENT = frozenset(
    "Ar Cm Pa Va Vt Fa Ev Dv Er Em Sy Li Ic Tn Ad An Sx Ft No Cd Lk Mt In Ms Nd Bx Fx Nx Ox At St Dx Ux Po Pc Xo Xc Do"
    " Dc Qo Qc So Sc Bo Bc Ao Ac Brc Bro Oc Fd Lb Rv Ex Ta Ap Hf Pf Bf Ef Bk Ek".split()
)


def mdoc_text(words, page_name):
    """The text of one line of mdoc macros, for example `Fl x Ar file` as "-x file"."""
    text, closing, joined = "", "", False
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "Ns":
            joined = True
            continue
        if word in MDOC_QUOTES:
            piece, closing = MDOC_QUOTES[word][0], MDOC_QUOTES[word][1] + closing
            joined_next = True
        elif word == "Fl":
            piece, joined_next = "-", True
        elif word == "Nm":
            piece, joined_next = "" if words and words[0][:1].isalnum() and len(words[0]) > 2 else page_name, False
        elif word == "Xr" and words:
            piece, joined_next = words.pop(0) + (f"({words.pop(0)})" if words and words[0][:1].isdigit() else ""), False
        elif word == "Fn" and words:
            piece, joined_next = words.pop(0) + "()", False
            words = [rest for rest in words if rest in ",.;:)"]
        elif word in MDOC_SILENT:
            continue
        else:
            piece, joined_next = word, False
        glued = joined or not text or piece in ".,;:)]?!" or text[-1] in "(["
        text += piece if glued else f" {piece}"
        joined = joined_next
    return text + closing


class Manual:
    """Reads a manual page, written with the man or the mdoc macros, into a document."""

    def __init__(self, name):
        self.document = Document(name, name.rsplit("/")[-1])
        self.page_name = self.document.title.split(".")[0]
        self.words = []
        self.label = ""
        self.label_follows = False
        self.in_name = False
        self.until = ()

    def read(self, text):
        """Reads the whole source of the page."""
        for line in text.split("\n"):
            if line[:1] in (".", "'"):
                self.request(line[1:].lstrip())
            elif not self.until:
                self.text(roff_text(line))
        self.close()
        return self.document

    def request(self, line):
        """Obeys one line that begins with a dot."""
        macro, _, rest = line.split('\\"')[0].partition(" ")
        macro, rest = macro.strip(), rest.strip()
        if self.until:
            if macro in self.until:
                self.until = ()
            if macro not in ("SH", "Sh"):
                return
        if macro in UNFILLED:
            self.close()
            self.until = UNFILLED[macro]
        elif macro in ("SH", "SS", "Sh", "Ss"):
            self.head(macro, " ".join(roff_arguments(rest)))
        elif macro in BREAKS:
            self.close()
        elif macro in ("TP", "TQ"):
            self.close()
            self.label_follows = True
        elif macro in ("IP", "It"):
            self.item(macro, rest)
        else:
            self.inline(macro, rest)

    def inline(self, macro, rest):
        """Adds the words of a macro that only sets type."""
        if macro in ALTERNATING:
            self.text("".join(roff_arguments(rest)))
        elif macro in ("B", "I", "SM", "SB", "R", "CW"):
            self.text(" ".join(roff_arguments(rest)))
        elif macro == "Nd":
            self.text("- " + " ".join(roff_arguments(rest)))
        elif macro == "Nm" or macro in MDOC_QUOTES or macro in MDOC_SILENT or macro in ("Fl", "Xr", "Fn"):
            self.text(mdoc_text([macro, *roff_arguments(rest)], self.page_name))

    def text(self, line):
        """Adds a line of text, or takes it as the term of the paragraph that follows."""
        if self.label_follows and line.strip():
            self.label, self.label_follows = line, False
        elif line.strip():
            self.words.append(line)
        else:
            self.close()

    def head(self, macro, heading):
        """Begins a section; headings in capitals are set in lower case, as they are only words."""
        self.close()
        self.in_name = macro in ("SH", "Sh") and bool(NAME_HEADING.match(heading))
        self.document.section(heading.capitalize() if heading.isupper() else heading)

    def item(self, macro, rest):
        """Begins an item of a list with its term."""
        self.close()
        words = roff_arguments(rest)
        label = mdoc_text(words, self.page_name) if macro == "It" else "".join(words[:1])
        self.label = label if any(character.isalnum() for character in label) else ""

    def close(self):
        """Ends a paragraph; the one under NAME gives the page its title."""
        text = tidy(" ".join(self.words))
        self.words.clear()
        if not text:
            return
        if self.in_name:
            self.document.title = re.sub(r"\s+[-–—]+\s+", ": ", text, count=1)[:120]
            self.in_name = False
        else:
            self.document.add(text, self.label)
        self.label = ""


def read_manual(name, data):
    """A manual page as a document; one that only names another page has none."""
    text = data.decode("utf-8", "replace")
    if text.startswith(".so ") or "\ufffd" in text[:2000]:
        return []
    return [Manual(name).read(text)]


# --- Plain text -------------------------------------------------------------

INFO_NODE = re.compile(r"\x1f\n?File: [^\n]*?Node: ([^,\n]+)[^\n]*\n")
RULE = re.compile(r"^\s*([-=*~_#.+^%])\1{2,}\s*$|^\s*[\w-]+:(\s+\S{0,40})?$")
"""A line that is no text: a rule, or a key of YAML with at most one word."""
BULLET = re.compile(
    r"^\s*(([*+•o-]|\(?\d{1,2}[.)])\s+|(- )?description:\s+"
    r"|:(param|ivar|cvar|keyword|returns?|raises|type|vartype|rtype|paramtype)\b[^:\n]*:)"
)


def plain_paragraphs(text):
    """The paragraphs of plain text: lines up to an empty line, a rule or the next item of a list."""
    lines = []
    for line in text.split("\n"):
        ends = not line.strip() or RULE.match(line)
        if (ends or BULLET.match(line)) and lines:
            yield " ".join(lines)
            lines = []
        if not ends:
            lines.append(BULLET.sub("", line))
    yield " ".join(lines)


def is_heading(paragraph):
    """Whether a paragraph of plain text is a heading: short, with a capital letter, and no sentence."""
    return 2 < len(paragraph) < 60 and paragraph[0].isupper() and paragraph[-1] not in ".,;!?)\""


def read_plain(name, data):
    """A text file as a document with a section for each paragraph that is a heading; an index of Hoogle is none."""
    if data.startswith(b"-- Hoogle"):
        return []
    document = Document(name, name.rsplit("/")[-1])
    for paragraph in plain_paragraphs(data.decode("utf-8", "replace")):
        if is_heading(tidy(paragraph)):
            document.section(paragraph)
        else:
            document.add(paragraph)
    return [document]


def read_info(name, data):
    """A file of GNU info as a document whose sections are the nodes."""
    parts = INFO_NODE.split(data.decode("utf-8", "replace"))
    document = Document(name, name.rsplit("/")[-1].partition(".info")[0])
    for heading, body in zip(parts[1::2], parts[2::2]):
        document.section(heading)
        for paragraph in plain_paragraphs(body.partition("\n* Menu:")[0]):
            document.add(paragraph)
    return [document]


# --- Text inside programs and their data ------------------------------------

TEXT_KEYS = ("documentation", "description", "help", "summary")
TAG = re.compile(r"<[^<>]*>")
MARKUP = re.compile(
    r":[\w:+-]+:`~?([^`<]*)[^`]*`|``([^`]+)``|`([^`'\n]+)[`']_{0,2}|\b[BCILMOUV]\(([^()]*)\)|\[\d+\]_|\*\*"
)
"""Marks of reStructuredText, Emacs Lisp and Ansible around a word, and of notes."""
STRINGS = {
    ".py": re.compile(r"^[ \t]*(?:class|def)\s+(?P<name>\w+)|[\"']{3}(?P<text>.*?)[\"']{3}", re.MULTILINE | re.DOTALL),
    ".el": re.compile(
        r"^\((?:cl-)?def[\w-]+\s+'?(?P<name>[^\s()]+)|\"(?P<text>(?:[^\"\\\n]|\\.|\n(?![(;]))*)\"", re.MULTILINE
    ),
    ".go": re.compile(r"(?P<text>(?:^[ \t]*//.*\n)+)(?P<name>(?!))?", re.MULTILINE),
    ".txt": re.compile(
        r"^(?:planet|mission|event|ship|outfit|conversation|government|species)\s+[`\"](?P<name>[^`\"]+)"
        r"|(?P<quote>[`\"])(?P<text>[^`\"]{20,})(?P=quote)", re.MULTILINE
    ),
    ".cfg": re.compile(r"^\s*(?:name|title)= *_ *\"(?P<name>[^\"]+)\"|_ *\"(?P<text>[^\"]{20,})\"", re.MULTILINE),
    ".ruleset": re.compile(
        r"^name *= *_\(\"(?P<name>[^\"]+)|_\(\"(?P<text>(?:[^\"\\]|\\.)*)\"", re.MULTILINE | re.DOTALL
    ),
}
"""What to look for in each kind of file: names, which become headings, and strings or comments with text.
A comment of Go begins with the name itself; a string of Emacs Lisp ends at the latest before the next definition."""
COMMENT = re.compile(r"^[ \t]*// ?", re.MULTILINE)
ESCAPES = {"\\\\=": "", "\\n": "\n", "\\\n": "\n", '\\"': '"'}
"""What strings have for a quoted mark of Emacs Lisp, for the end of a line, and for a quotation mark."""


def without_markup(text):
    """The text of a string without tags, escapes and the marks of a markup language."""
    text = html.unescape(TAG.sub(" ", text))
    for escape, character in ESCAPES.items():
        text = text.replace(escape, character)
    return MARKUP.sub(lambda match: next(filter(None, match.groups()), ""), text)


def read_strings(name, data):
    """The text in the strings of a program or of a game's data, with a section for each definition or name."""
    document = Document(name, os.path.splitext(name.rsplit("/")[-1])[0])
    for match in STRINGS[os.path.splitext(name)[1]].finditer(data.decode("utf-8", "replace")):
        if match["name"]:
            document.section(match["name"])
        else:
            for paragraph in plain_paragraphs(without_markup(COMMENT.sub("", match["text"]))):
                document.add(paragraph)
    return [document]


def read_json(name, data):
    """The descriptions in a file of JSON, each with the name of what it describes."""
    content = json.loads(data)
    document = Document(name, content["metadata"]["serviceFullName"])
    add_descriptions(document, content, "")
    return [document]


def add_descriptions(document, value, label):
    """Adds the descriptions in a value of JSON and in what it contains."""
    for key, inner in value.items() if isinstance(value, dict) else ((label, inner) for inner in value):
        if isinstance(inner, (dict, list)):
            add_descriptions(document, inner, key)
        elif key in TEXT_KEYS and isinstance(inner, str):
            document.section(label)
            for paragraph in plain_paragraphs(without_markup(inner)):
                document.add(paragraph)


# --- Dictionaries and sayings -----------------------------------------------

DICT_SOURCE = re.compile(r"\[(1913 Webster|PJC|WordNet|Webster|RP|AS|Century Dict)[^\]]*\]( \w[^\n]*$)?", re.MULTILINE)
DICT_SOUND = re.compile(r"\\[^\\\n]{1,80}\\|(?<=\w) \([^()\n]*[\"`^][^()\n]*\)|[{}]")
DICT_GRAMMAR = re.compile(
    r"^[\s,;.]*(\([^()]*[\"`*][^()]*\)[\s,;.]*)?"
    r"((prop|n|a|v|adv|p|imp|pl|pr|vb|prep|conj|interj|pron|t|i)\b[\s.,;&]*)*(\[[^\[\]]*\][\s.,;]*)?(?=\S)"
)
DICT_ACCENT = re.compile(r"\[([\"'`^=,~])(\w)\]|\[(\w)(\^|acute|breve|caron|cedil|grave|macr|uml)\]|\[(ae|oe|AE|OE)\]")
ACCENTS_BEFORE = dict(zip("\"'`^=,~", "\u0308\u0301\u0300\u0302\u0304\u0327\u0303"))
ACCENTS_AFTER = {
    "^": "\u0306", "acute": "\u0301", "breve": "\u0306", "caron": "\u030c", "cedil": "\u0327", "grave": "\u0300",
    "macr": "\u0304", "uml": "\u0308",
}
LIGATURES = {"ae": "æ", "oe": "œ", "AE": "Æ", "OE": "Œ"}
BASE64_DIGITS = {digit: value for value, digit in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def dict_number(digits):
    """A number as dictd writes it, in base 64."""
    number = 0
    for digit in digits:
        number = number * 64 + BASE64_DIGITS[digit]
    return number


def dict_accent(match):
    """The letter that a dictionary writes as, for example, ["o] or [ae]."""
    before, letter_after, letter_before, after, ligature = match.groups()
    if ligature:
        return LIGATURES[ligature]
    return unicodedata.normalize(
        "NFC", letter_after + ACCENTS_BEFORE[before] if before else letter_before + ACCENTS_AFTER[after]
    )


def dict_entry(text, headword):
    """The headword and the gloss of an entry, without sounds, grammar and the names of its sources."""
    text = DICT_ACCENT.sub(dict_accent, DICT_SOUND.sub("", DICT_SOURCE.sub("", text))).strip()
    head = re.match(r"[^,(\[\n;.:]+", text)
    if not head or len(head[0]) > 60:
        return headword, tidy(text)
    return tidy(head[0]), tidy(DICT_GRAMMAR.sub("", text[head.end():]))


def read_dict(name, data, index):
    """A dictionary of dictd as a document whose sections are its entries, in the order of the text."""
    document = Document(name, "")
    places = {}
    for line in index.decode("utf-8", "replace").splitlines():
        fields = line.split("\t")
        if len(fields) >= 3 and not fields[0].startswith("00"):
            places.setdefault((dict_number(fields[1]), dict_number(fields[2])), fields[0])
    for (start, length), headword in sorted(places.items()):
        headword, gloss = dict_entry(data[start:start + length].decode("utf-8", "replace"), headword)
        if 20 <= len(gloss) <= LONGEST // 2:
            document.add_entry(headword, gloss)
    return [document]


def read_wordnet(name, data):
    """A data file of WordNet as a document with an entry for each set of synonyms."""
    document = Document(name, "")
    for line in data.decode("utf-8", "replace").splitlines():
        fields, separator, gloss = line.partition(" | ")
        if separator and fields[:1].isdigit():
            words = fields.split()
            synonyms = [word.replace("_", " ") for word in words[4:4 + 2 * int(words[3], 16):2]]
            document.add_entry(", ".join(re.sub(r"\(\w+\)$", "", word) for word in synonyms), tidy(gloss))
    return [document]


def read_sayings(name, data):
    """A file of fortunes as a document with a section for each saying, kept whole."""
    document = Document(name, f"Sayings: {name.rsplit('/')[-1]}")
    for saying in data.decode("utf-8", "replace").split("\n%\n"):
        document.section("")
        for paragraph in plain_paragraphs(saying):
            document.add(paragraph)
    return [document]


# --- Packages ---------------------------------------------------------------

LANGUAGE = (
    r"(?!en|C\b)(af|ar|ast|be|bg|bn|br|bs|ca|cs|cy|da|de|dz|el|eo|es|et|eu|fa|fi|fr|ga|gl|gu|he|hi|hr|hu|id|is|it|ja"
    r"|ka|kk|km|kn|ko|lt|lv|mk|ml|mr|nb|ne|nl|nn|no|oc|om|pa|pl|pt|ro|ru|si|sk|sl|sq|sr|sv|ta|te|tg|th|tr|uk|uz|vi|zh)"
    r"([_-][A-Za-z]{2,4}(@\w+)?)?"
)
UNWANTED_FOLDER = re.compile(
    rf"/({LANGUAGE}|_sources|_modules|_static|_images|src-html|class-use|src|licen[cs]es?|legal|translations|examples?"
    r"|lintian|tests?|whatsnew|release-?notes|releasenotes)/", re.IGNORECASE
)
UNWANTED_FILE = re.compile(
    r"^(genindex.*|search.*|.*modindex.*|index-all.*|index-\d+\.html|all(classes|packages).*|perl5\d*delta.*"
    r"|.*-(tree|use|frame|summary)\.html|deprecated-list.*|constant-values.*|serialized-form.*|help-doc.*|functions_?.*"
    r"|globals_.*|hierarchy.*|annotated.*|classes\.html|files\.html|namespacemembers.*|.*-members\.html|.*_source\.html"
    r"|graph_legend.*|dir_[0-9a-f].*|inherit.*|copying.*|licen[cs]e.*|copyright.*|change(s|log).*|.*changelog.*|news.*"
    r"|credits.*|authors.*|todo.*|thanks.*|maintainers.*|robots\.txt|cmakelists.*|.*requirements.*\.txt"
    r"|.*release[-_]?notes.*|releases?\.html|release-\d.*"
    rf"|attic.*|what-?s-?new.*|doc-index.*|.*\.hs\.html|.*\.{LANGUAGE}\.html?|.*\.html\.(?!en){LANGUAGE})$",
    re.IGNORECASE,
)
MANUAL_FILE = re.compile(r"^usr/share/man/(zh_CN/)?man\w/")
PACKED = {".gz": gzip.decompress, ".dz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
PLAIN_FOLDERS = ("usr/share/doc/", "usr/share/crawl/dat/descript/", "usr/share/vim/")
PLAIN_SUFFIXES = (".txt", ".text", ".md")
PROGRAM_FILE = re.compile(
    r"^usr/(?!.*/(tests?|testdata|vendor)/)(lib/python3[.\d]*/.*\.py|share/emacs/.*\.el|share/(gocode|go-[.\d]+)/.*\.go"
    r"|share/(games/)?(wesnoth|freeciv|endless-sky)/.*\.(cfg|ruleset|txt))$"
)
DATA_FILE = re.compile(r"^usr/lib/python3/dist-packages/botocore/data/.*/service-2\.json$")


def reader_of(path):
    """The function that reads the file at this path of a package, or None when it is not wanted."""
    name = path.rsplit("/", 1)[-1]
    if MANUAL_FILE.match(path):
        return None if UNWANTED_FILE.match(name) else read_manual
    if PROGRAM_FILE.match(path):
        return read_strings
    if DATA_FILE.match(path):
        return read_json
    if UNWANTED_FOLDER.search(path) or UNWANTED_FILE.match(name):
        return None
    if path.startswith("usr/share/wordnet/data."):
        return read_wordnet
    if path.startswith("usr/share/games/fortunes/") and "." not in name:
        return read_sayings
    if name.endswith((".html", ".htm", ".xhtml", ".html.en", ".docbook", ".page")):
        return read_html
    if path.startswith("usr/share/info/") and ".info" in name:
        return read_info
    if path.startswith(PLAIN_FOLDERS) and (name.endswith(PLAIN_SUFFIXES) or name.startswith("README")):
        return read_plain
    return None


def without_packing(path, data):
    """The path without the suffix of a packed file, and the data unpacked."""
    stem, suffix = os.path.splitext(path)
    return (stem, PACKED[suffix](data)) if suffix in PACKED else (path, data)


SHARED_FOLDERS = re.compile(
    r"^usr/(lib/python3[.\d]*/(dist-packages/)?|share/)"
    r"(man/(zh_CN/)?man\w/|doc/[^/]+/((html|HTML|doc|en)/)?|info/|games/fortunes/|help/C/|[^/]+/)?"
)


def short_name(package, path):
    """The path under which a snippet names its file: without the folders that all files of the package share."""
    return f"{package}/{SHARED_FOLDERS.sub('', path)}"


@contextmanager
def unpacked(deb):
    """The archive inside a package, as a stream. Its reader may stop early, of which dpkg-deb would complain."""
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
        except tarfile.TarError as problem:
            raise Unusable(f"{deb} cannot be read ({problem}): remove it and run this again") from problem


def documents(package, deb):
    """The documents of a package, in the order of its archive. Nothing is unpacked to disk."""
    dictionary = {}
    with unpacked(deb) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if not member.isfile() or member.size > 4 * LARGEST_FILE:
                continue
            if path.startswith("usr/share/dictd/"):
                dictionary[os.path.splitext(path)[1]] = without_packing(path, archive.extractfile(member).read())[1]
                continue
            stem = os.path.splitext(path)[0] if path.endswith(tuple(PACKED)) else path
            reader = reader_of(stem)
            if reader:
                stem, data = without_packing(path, archive.extractfile(member).read())
                if len(data) <= LARGEST_FILE or reader is read_wordnet:
                    yield from reader(short_name(package, stem), data)
    if ".dz" in dictionary:
        yield from read_dict(f"{package}/{package.removeprefix('dict-')}", dictionary[".dz"], dictionary[".index"])


def snippets_of(package, deb):
    """The snippets of a package as (id, title, text); the id tells the file and the place in it."""
    taken = {}
    for document in documents(package, deb):
        taken[document.name] = taken.get(document.name, 0) + 1
        name = document.name if taken[document.name] == 1 else f"{document.name}~{taken[document.name]}"
        for number, (title, text) in enumerate(cut(document), 1):
            yield f"{name}#{number}", title, text


# --- Apt --------------------------------------------------------------------

class Apt:
    """Debian's packages, through apt with lists of its own in the cache folder."""

    def __init__(self, cache):
        self.cache = cache.resolve()
        for command in ("apt-get", "apt-cache", "dpkg-deb"):
            if not shutil.which(command):
                raise Unusable(f"{command} is missing: run this on Debian 12, or in a container of the image debian:12")
        self.lists = self.cache / "lists"
        (self.lists / "partial").mkdir(parents=True, exist_ok=True)
        if not self.translations():
            say("apt-get update")
            self.run("apt-get", "update")
        if not self.translations():
            raise Unusable("apt has no descriptions in English: check the sources in /etc/apt and run `apt-get update`")

    def translations(self):
        """The lists of long descriptions, one for each archive."""
        return sorted(self.lists.glob("*_Translation-en"))

    def run(self, *command, folder=None):
        """Runs an apt command, in the cache or another folder, and returns what it printed."""
        options = {
            "Dir::State::Lists": self.lists, "Dir::Cache": self.cache / "apt", "Acquire::Languages": "en",
            "Acquire::GzipIndexes": "false", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "APT::Sandbox::User": "root",
        }
        settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        done = subprocess.run(
            [command[0], *settings, "-q", *command[1:]],
            cwd=folder or self.cache, capture_output=True, text=True, check=False,
        )
        if done.returncode:
            raise Unusable(
                f"`{' '.join(command)[:200]}` failed: {done.stderr.strip()[-500:]}\n"
                f"Remove {self.lists} if the mirror has newer versions, and check the sources in /etc/apt"
            )
        return done.stdout

    def descriptions(self):
        """Every package's name and long description, as (name, first line, paragraphs), sorted by name."""
        found = {}
        for listing in self.translations():
            for entry in listing.read_text("utf-8").split("\n\n"):
                match = re.match(r"Package: (\S+)\n(?:.*\n)*?Description-en: (.*)\n((?: .*\n?)*)", entry)
                if match:
                    found.setdefault(match[1], (match[2], match[3].split("\n .\n")))
        return [(name, *found[name]) for name in sorted(found)]

    def files(self, packages):
        """The file in the cache, and its bytes, of each package that the mirror has and that is not too large."""
        known = set(self.run("apt-cache", "pkgnames").split())
        for package in packages:
            if package not in known:
                say(f"{package}: not on this mirror")
        wanted = [package for package in packages if package in known]
        # In a folder without packages, as apt-get does not print those that the folder has.
        listing = self.run("apt-get", "download", "--print-uris", *wanted, folder=self.lists)
        files = {}
        for line in listing.splitlines():
            match = re.match(r"'[^']+' (([^_]+)_\S+\.deb) (\d+) ", line)
            if match and int(match[3]) <= LARGEST_PACKAGE:
                files[match[2]] = (self.cache / match[1], int(match[3]))
        return {package: files[package] for package in packages if package in files}

    def download(self, files):
        """Brings these packages into the cache unless they are there, and whole."""
        missing = [name for name, (file, size) in files.items() if not file.exists() or file.stat().st_size != size]
        if missing:
            self.run("apt-get", "download", *missing)


def described(apt):
    """The long descriptions as snippets; those that are too short stay out."""
    for name, summary, paragraphs in apt.descriptions():
        document = Document(f"description/{name}", f"{name}: {summary}")
        for paragraph in paragraphs:
            document.add(re.sub(r"\n +[*+-] ", "; ", paragraph))
        text = "\n".join(document.sections[0][1])
        if len(text) >= SHORTEST:
            yield document.name, document.title, cut_to_length(text)


def cut_to_length(text):
    """The text up to the last sentence or line that ends between SHORTEST and LONGEST, or else the last word."""
    if len(text) <= LONGEST:
        return text
    end = re.match(rf".{{{SHORTEST + 1},}}(?:\n|[.!?](?= ))", text[:LONGEST], re.DOTALL)
    return end[0].strip() if end else text[:LONGEST].rpartition(" ")[0]


def candidates(apt, packages):
    """All snippets, source after source; the next packages are downloaded while one is read."""
    yield from described(apt)
    files = apt.files(packages)
    names = list(files)
    batches = [{name: files[name] for name in names[at:at + BATCH]} for at in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(1) as downloads:
        pending = downloads.submit(apt.download, batches[0]) if batches else None
        for place, batch in enumerate(batches):
            pending.result()
            if place + 1 < len(batches):
                pending = downloads.submit(apt.download, batches[place + 1])
            for package, (file, _) in batch.items():
                yield from snippets_of(package, file)


# --- Near-copies ------------------------------------------------------------

TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\W_]+")
DIGITS = str.maketrans("123456789", "000000000")


class Seen:
    """Which shingles the snippets so far had: one bit for each hash of 32 bits, 512 MiB in all.

    At a million snippets of about a hundred words, some 2 % of the hashes are
    taken, so a new shingle is taken for an old one that seldom. All digits count
    as one, so that texts that differ in versions and numbers only are near-copies.
    """

    def __init__(self):
        self.bits = bytearray(1 << 29)

    def take(self, text):
        """Remembers the text's shingles and returns True, unless too many were seen before."""
        tokens = TOKEN.findall(text.lower().translate(DIGITS))
        hashes = {
            zlib.crc32(" ".join(tokens[at:at + SHINGLE]).encode()) for at in range(max(1, len(tokens) - SHINGLE + 1))
        }
        bits = self.bits
        seen = sum(bits[value >> 3] >> (value & 7) & 1 for value in hashes)
        if seen > MOST_SEEN * len(hashes):
            return False
        for value in hashes:
            bits[value >> 3] |= 1 << (value & 7)
        return True


# --- The run ----------------------------------------------------------------

def say(message):
    """Reports progress on standard error."""
    print(f"corpus: {message}", file=sys.stderr, flush=True)


class Tally:
    """Counts the snippets of each source and reports a source when it is done."""

    def __init__(self):
        self.began = time.monotonic()
        self.source = ""
        self.kept = self.near_copies = self.total = 0

    def count(self, source, kept):
        """Counts one snippet, kept or dropped as a near-copy."""
        if source != self.source:
            self.report()
            self.source, self.kept, self.near_copies = source, 0, 0
        self.kept += kept
        self.near_copies += not kept
        self.total += kept

    def report(self):
        """Reports the source that has just been read."""
        if self.source:
            seconds = time.monotonic() - self.began
            left_out = f"{self.near_copies} near-copies left out"
            say(f"{self.total:>8} in {seconds:4.0f} s, of which {self.source}: {self.kept} ({left_out})")


def write(apt, count, out):
    """Writes up to this many snippets and returns how many there were."""
    seen, tally = Seen(), Tally()
    unfinished = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.open("w", encoding="utf-8") as lines:
        for name, title, text in candidates(apt, PACKAGES):
            # Some old pages hold NUL characters, which databases do not keep.
            title, text = title.replace("\0", ""), text.replace("\0", "")
            kept = seen.take(text)
            tally.count(name.partition("/")[0], kept)
            if kept:
                lines.write(json.dumps({"id": name, "title": title, "text": text}, ensure_ascii=False) + "\n")
            if tally.total >= count:
                break
    tally.report()
    unfinished.replace(out)
    return tally.total


def main():
    """Reads the arguments, writes the file and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True, help="snippets to write")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to write")
    parser.add_argument("--cache", type=Path, default=Path("target/bench/debs"), help="folder for the packages")
    arguments = parser.parse_args()
    try:
        total = write(Apt(arguments.cache), arguments.count, arguments.out)
    except Unusable as problem:
        say(problem)
        return 2
    if total < arguments.count:
        say(f"only {total} of {arguments.count} snippets could be made; {arguments.out} has them")
        return NOT_ENOUGH
    say(f"{total} snippets in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
