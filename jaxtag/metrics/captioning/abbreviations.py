"""Abbreviations whose period the Penn Treebank tokenizer keeps: "Mr.", "Inc.", "e.g."

From the tokenizer that coco-caption runs (Stanford CoreNLP 3.4.1). Case is ignored, except that the
words of `CAPITALIZED` must start with a capital, being everyday words otherwise ("miss"). Each name
is an alternation for use inside a regular expression.
"""


def _alternatives(words: str) -> str:
    return f"(?i:{'|'.join(words.split())})"


CAPITALIZED = "|".join(
    rf"{word[0]}(?i:{word[1:]})"
    for word in ["Az", "Ark", "Del", "Ill", "La", "Mass", "Miss", "Ore", "Pa", "Tex", "Wash"]
)

# Months, days, states, companies and suffixes of names. Titles ("Mr.") are a list of their own
# because they keep their period everywhere, these only before two or more characters, or none.
COMMON = (
    _alternatives(
        """Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri
        Ala Ariz Calif Colo Conn Ct Dak Fla Ga Ind Kans? Ky Md Mich Minn Mo Mont Neb Nev Okla Penn
        Tenn Va Vt Wisc? Wyo Inc Cos? Corp Ltd Plc Rt Bancorp Bhd Assn Univ Intl
        Sys tel est ext sq Jr Sr Bros Ed\\.D Ph\\.D Blvd Rd Esq etc al seq Bldg"""
    )
    + rf"|{CAPITALIZED}|(?i:Pp?t)[ye](?i:s?)"
)

TITLES = (
    _alternatives(
        """Mr Mrs Ms Drs? Profs? Sens? Reps? Attys? Lt Col Gen Messrs Govs? Adm Rev Maj Sgt Cpl Pvt
        Capt Ste? Ave Pres Lieut Hon Brig Co?mdr Pfc Spc Supts? Det Mt Ft Adj Adv Asst Assoc Ens
        Insp Mlle Mme Msgr Sfc vs Alex Wm Jos Cie a\\.k\\.a cf Treas Ph Invt Elec Natl Dept"""
    )
    + "|M(?i:iss)|(?i:M)[ft](?i:g)"
)

# These keep their period before a number only: "fig. 5", "no. 10".
BEFORE_NUMBER = _alternatives("ca figs? prop nos? art bldg pp op")

FILE_ENDINGS = _alternatives(
    """bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php
    pl png ppt ps py sql tar txt wav x xml zip"""
)
