"""What the stand-in model talks about: invented troubles and things, each line a noun phrase and a sentence around it. Far apart in meaning, on purpose."""

_TROUBLES = """
the moved meeting|They moved the weekly meeting to seven in the morning and nobody asked who has to be somewhere else.
the unpaid invoice|A customer has owed me for eleven weeks of work and answers every reminder with a smiley.
the broken boiler|The boiler died in January and the landlord says it is not urgent.
my brother's loan|My brother borrowed money for a van and now crosses the street when he sees me.
the failed driving test|I failed the driving test for the third time, on a roundabout I cross every day.
the new software|They replaced the booking software overnight and the old hands look at me as if I should have learned it in my sleep.
the funeral speech|I am supposed to speak at my uncle's funeral and the page stays white.
the neighbour's drums|The neighbour practises drums from nine until midnight and my first alarm is at four.
the lost promotion|The post that was promised to me went to somebody who started in spring.
the choir rehearsal|I dropped out of the choir because I kept falling asleep between two songs.
the hospital bill|A bill came for an ambulance ride I do not even remember.
the wedding list|My cousin's wedding costs more per guest than I spend on food in a month.
the cracked tooth|I have been chewing on one side since August because the dentist wants cash.
the allotment|The allotment is waist high in weeds and the committee has written twice.
the exam resit|I have to sit the anatomy exam again in nine days and read the same page four times.
the stolen bicycle|My bicycle was stolen from the station and with it the only hour I had for myself.
the puppy|We bought a puppy for the children and I am the only one who gets up for it.
the silent treatment|My colleague at the next desk has not spoken to me since I corrected her figures.
the flooded cellar|The cellar flooded and thirty years of photographs dried into one brick.
the language course|I signed up for evening Portuguese and hide in the back row because I never do the homework.
the night bus|They cancelled the night bus, so after the late shift I walk fifty minutes along the dual carriageway.
the reference letter|My old supervisor will not write me a reference and will not say why.
the teenage door|My daughter has spoken to me through a closed door for three weeks.
the insulin prices|What we pay at the pharmacy for my father went up by half in a year.
the fundraising dinner|I have to ask rich strangers for donations on Saturday and feel sick already.
the open-plan office|They took down the walls and now I hear eleven phone calls while I write one sentence.
the custody weekend|My ex changed the custody weekend again, an hour before pick-up.
the marathon|I trained for a marathon, broke a toe, and now I can't look at my shoes.
the bad review|Somebody I never served wrote online that our kitchen is filthy.
the overdraft|I have been in the overdraft so long that I count the limit as my money.
the choking incident|A resident choked at lunch, she lived, and I still hear it when I close my eyes.
the unread messages|There are four hundred unread messages and I open the app only to close it.
the redundancy round|The second redundancy round is announced for Thursday and people have begun to whisper.
the school play|I missed the school play because the delivery came late and he was the only tree without a parent.
the visa letter|The visa office wants a document that only an office closed since March can give.
the empty nest|The last child moved out and I set the table for four every night.
the shift swap|I swapped four shifts for others this month and nobody would take one for me.
the mouldy ceiling|There is black mould over the cot and the agency recommends opening a window.
the thesis|My supervisor has had chapter two since Easter and asks when chapter three comes.
the pension gap|I did the sums for my old age and there are nine years with nothing in them.
the charity shop|I volunteer in a charity shop and come home angrier than from paid work.
the divorce papers|The divorce papers have been in the glove box for two months because signing needs a witness.
the lottery colleague|A colleague won on a scratch card and talks about boats while I eat crackers.
the sleepwalking|My son walks in his sleep and I lie awake listening to the stairs.
the audit|The auditors come on Monday and half of the folders were kept by a man who retired without a word.
the burnt lasagne|I burnt a lasagne, sat on the kitchen floor and cried as if somebody had died.
the unfinished kitchen|The builder took the deposit, tore out the kitchen and stopped answering.
the praise|My manager praised me in front of everybody and I wanted to hide under the table.
the gym contract|I pay for a gym that I have visited twice and the contract renews itself.
the fosterling|The boy we foster asked whether he should unpack this time.
the missed call|I let my mother's call ring out and she fell that same evening.
the harvest|Hail took two thirds of the apples and the buyer wants to renegotiate.
the sales target|The target went up by a third and the territory got smaller.
the violin|My daughter wants to give up the violin we are still paying off.
the hearing aid|I nod in meetings because I am too vain to wear the hearing aid.
the church council|I said yes to the church council because of one long silence and now I run it.
the moving boxes|We moved in April and I still live out of boxes because each one is a decision.
the translation|I translated four hundred pages and they decided not to print the book.
the dating app|Six people in a row stopped answering after I said that I have a disability.
the phone bill|My nephew ran up a phone bill on a game and my sister says boys will be boys.
the migraine|The migraine comes every Friday at five as if it had a key.
the graduation photo|I am in no graduation photo because I was working the catering at it.
the unpaid overtime|I counted the hours nobody pays me for and it is a day and a half a week.
the twin|My twin got the flat, the dog and the calm, and people ask us how we are in one breath.
the stammer|My stammer came back when they put me on the front desk.
the caravan|My husband bought a caravan with what I thought was our safety net.
the protest letter|Parents signed a letter against the way I teach and two of them are friends.
the vegetable box|I cancelled the vegetable box because watching it rot felt like failing.
the refugee guest|We gave our spare room to a family for a month and it has been a year.
the ringing ears|My ears have been ringing since the concert and silence is gone.
the apprentice|My apprentice is brilliant and rude, and everyone wants me to sort it out.
the tax letter|The tax office wants four years of receipts and I kept them in a shoe box that got wet.
the bridge club|They found a fourth for bridge while I was in hospital.
the snow day|The school shut for snow and I brought two children to a job where there are forklift trucks.
the interview silence|I have had nine interviews and the ninth panel did not even send a no.
the ultrasound|We lost the pregnancy in week eleven and on Monday I am expected at the trade fair.
the cheap flight|Everyone booked a cheap flight to a hen party and I typed that I was busy.
the dementia diagnosis|My wife asked me yesterday when her husband would be home.
the football team|I coach under-tens and a father shouted at me from the touchline until I shook.
the sabbatical|I got my sabbatical and sit in front of the day as if it were an exam.
the credit check|They turned me down for a flat because of a phone contract from when I was nineteen.
the inbox rule|My boss wants an answer within the hour, also on the day of my own wedding.
the piano exam|I froze in front of the jury and walked out past my own pupils.
the tent|We lost the house in the storm and the insurer sent a questionnaire about the colour of the roof.
the night feeds|The baby wakes every ninety minutes and my husband says he does not hear it.
the bank holiday|I am the only one without plans for the long weekend and I have rehearsed a lie.
the merger|Two firms became one and there are now two people for my chair.
the lunch money|My son gave his lunch money to a boy who has less and told me he was not hungry.
the stage fright|I threw up before the parents' evening and then smiled for two hours.
the knitting shop|I opened a wool shop with my redundancy pay and on some days nobody comes in.
the cousin's advice|My cousin doubled his money with some coin and calls me a coward at every birthday.
the eczema|My hands split open from the disinfectant and the gloves make it worse.
the missing thank-you|I ran the whole summer fair and the head thanked the man with the microphone.
the rent letter|The rent goes up in June by what I had put aside for glasses.
the handover|The person I take over from left a single sheet of paper and a plant.
the chess club|I let a child win at chess and he noticed and cried.
the ferry|I commute by ferry and in the autumn storms I get home after the bedtime story.
the wrong order|I ordered ten thousand envelopes with last year's date.
the vaccination row|My parents and I fell out over a jab and the chair at Christmas stayed empty.
the spare key|My mother lets herself in with the spare key and rearranges my cupboards.
the quiet intern|The intern I was meant to look after quit by postcard.
the greenhouse|I stand in the greenhouse after work and cannot go into the house.
the pawned ring|I pawned grandmother's ring to pay for tyres and the date to get it back is near.
the election shift|I counted votes until dawn and then opened the nursery at seven.
the marking|There are ninety essays about the same poem on my sofa.
the reunion|The class reunion is in two weeks and I have deleted my job from my profile.
the horse|I can no longer pay for the stable and the horse is twenty-two.
the speech therapist|The waiting list for the speech therapist is longer than my son's life so far.
the lawn|The man next door mows my half of the lawn to shame me.
the panic on the train|I got off the train between two stations' worth of panic and was two hours late.
the suggestion box|I put an idea into the suggestion box and heard it a month later as somebody else's.
the cleaning rota|Five adults share the flat and I am the only one who knows where the mop is.
the sick note|The doctor signed me off for two weeks and I hid the note in a book.
the stew|I cook for forty people a day and eat standing up at the bin.
the pilot light|My grandfather left the gas on twice and won't hear of moving.
the patent|The invention I drew on my kitchen table now has the firm's name on it.
the second job|I deliver parcels before breakfast and nearly drove into a milk float.
the swimming lesson|I am forty-four and registered for a swimming lesson for beginners.
the book club|I have not finished a book since my mother died and I still host the book club.
the ration of petrol|I coast downhill in neutral to save petrol until payday.
the unfair rota|The new rota gives the same three people every Christmas.
the podcast|I was interviewed for a podcast and cannot bear to hear my own voice.
the scholarship|My girl won a scholarship and the uniform alone costs more than my wages.
the bereaved customer|A widow comes to my counter each morning to talk and my supervisor times it.
the stairlift|The stairlift broke and my mother has been living in one room for ten days.
"""

_THINGS = """
a yellow sticky note|There is a yellow sticky note on the fridge that only says "call".
the dented thermos|I keep refilling the same dented thermos and never drink it.
the bus shelter|I am writing from a bus shelter that smells of rain and chips.
my sister Ana|My sister Ana says I should have seen it coming.
the red spreadsheet|There is a spreadsheet with a red column that I no longer open.
the laundry basket|The laundry basket has become a piece of furniture.
the goldfish|I told the whole story to the goldfish first.
the lift mirror|This morning I did not know the face in the lift mirror.
an unopened parcel|A parcel with my name on it has stood in the hall for a week.
the church bells|The church bells strike every quarter and I have counted them all.
grandfather's watch|I wear my grandfather's watch, which stopped at twenty to five.
the car park|I sat in the car park for half an hour with the engine off.
a jar of coins|There is a jar of coins on the shelf that I shake to hear how much is left.
the squeaking chair|My chair squeaks and everybody hears when I stop working.
the school gate|At the school gate the others talk about skiing.
cold porridge|I ate cold porridge at the sink and called it dinner.
a broken umbrella|I walked home under an umbrella with three spokes.
the hotel carpet|I know the pattern of this hotel carpet by heart.
my late father's coat|I found a shopping list in the pocket of my late father's coat.
the whiteboard|Somebody drew a smiling sun on the whiteboard over my name.
the ironing board|I do my planning on an ironing board because the table is full.
the harbour wall|I have been sitting on the harbour wall since the fish market closed.
two missed calls|There are two missed calls from a number I don't dare to look up.
the tomato plants|The tomato plants died while I was being reliable for everybody else.
the wrong shoes|I noticed at noon that I was wearing two different shoes.
a paper crown|I was wearing a paper crown from a birthday when I read the news.
the cat's bowl|Even the cat looks at its bowl and then at me.
the laminated badge|My badge still has the photograph from when I laughed.
the staff toilet|The staff toilet is the only room here with a lock.
a blue plaster|There is a blue plaster on my thumb and I don't know from what.
the last candle|The power went and I found the last candle in the biscuit tin.
the radio quiz|The radio quiz asked for the capital of Peru and I burst into tears.
my neighbour Tom|Old Tom from downstairs asked twice whether I was eating.
the frozen peas|I slept with frozen peas on my forehead.
the printer|The printer has been blinking the same error since spring, like me.
a half-knitted scarf|A scarf I began in better days has lain half-knitted under the sofa.
the night porter|The night porter and I have started to greet each other like old friends.
a train ticket|I have a train ticket to the coast in my wallet that ran out last month.
the balcony door|I open the balcony door to hear whether anyone else is awake.
the birthday card|I have written "dear" on a birthday card and nothing after it.
the fish tank|In the waiting room there was a fish tank with a single fish going round.
the dog lead|The lead still hangs by the door although the dog is gone.
a plastic chair|I have spent the night on a plastic chair under a vending machine.
the piggy bank|My youngest offered me her piggy bank.
the borrowed suit|I will have to wear a suit that belongs to my brother-in-law.
the ticking radiator|The radiator ticks all night as if it were marking my work.
the windscreen|There was ice on the inside of the windscreen.
the empty lunchbox|He brought the lunchbox back with the apple turned round to hide the bite.
the old piano|I lifted the lid of the old piano and closed it again.
the supermarket till|At the till I put back the cheese and pretended I had forgotten it at home.
the pile of magazines|The magazines about calmer lives are piled up to the window sill.
a stranger's smile|A stranger held the door for me and I nearly told him everything.
the cracked phone|I type this around a crack in the screen.
the kitchen clock|I stopped the kitchen clock because of the noise.
a green folder|All of it is in a green folder that I carry about and don't open.
the ferry horn|The ferry horn goes at six and my stomach knows it before I do.
the allotment shed|I keep a kettle in the shed so that nobody can find me.
the lost glove|I went back for a lost glove and walked on for two hours.
the chemist's queue|In the queue at the chemist's I could not remember my own postcode.
my niece's drawing|My niece drew the family and I am the one without a mouth.
the scratched pan|I have scrubbed the same pan so long that there is a hole in the coating.
the fog|There is fog down to the ground and I was glad of it.
the calendar|On the calendar every square has two colours and none is mine.
the tin of paint|A tin of paint for the nursery has dried up under the stairs.
the choir scarf|I found my choir scarf behind the boiler.
the milk|The milk was sour and that was somehow the last straw.
the waiting-room music|The hold music has been stuck in my head since Tuesday.
a wet dog|A wet dog leaned on me in the park and I did not move for ten minutes.
the bunk bed|I am lying in the lower bunk because it is the only quiet place.
the sewing machine|My mother's sewing machine stands there, threaded in her colour.
the hospital bracelet|I am still wearing the hospital bracelet.
the cycling helmet|A spider has moved into my cycling helmet.
the last biscuit|We all looked at the last biscuit and nobody had the nerve.
the roof|I climbed up on the roof to fix the aerial and stayed for the view.
the passport|My passport ran out and I have not missed it.
the swing|I sat down on a swing that is made for six-year-olds.
a dead battery|The car battery is as flat as I am.
the library card|They have blocked my library card over a book on patience.
the moth|A moth has eaten through the sleeve of my one good jacket.
the pressure cooker|The pressure cooker whistled and I screamed at it.
a row of shoes|In the hall there are eleven shoes and none makes a pair.
the shop window|I practise a cheerful face in the shop window.
the snooze button|I pressed the snooze button nine times by my own count.
the crossword|My husband reads me crossword clues as if it were an ordinary evening.
the tram driver|The tram driver said good morning and meant it.
a cold sore|A cold sore comes up each time before I have to speak.
the paper lantern|There is still a paper lantern up from a party I don't remember enjoying.
the freezer|I labelled everything in the freezer with the names of meals I no longer cook.
the doorbell|When the doorbell rings I turn off the light.
a torn photograph|I taped a torn photograph together from the back.
the rain barrel|I watched a leaf go round in the rain barrel.
the blister|I have a blister from shoes I bought to look serious.
the toolbox|Nobody else may touch the toolbox, and nobody else mends anything.
the corner café|The woman in the corner café starts my tea when she sees me across the street.
the baby monitor|The baby monitor picks up a taxi firm at night.
the chessboard|Our chessboard has stood in the same position since he left.
the toll booth|I threw the coin past the basket at the toll booth and just sat there.
the spare room|The spare room is full of other people's things.
an orange vest|I am still wearing the orange vest from the shift.
the mountain|From the window I see the mountain that I meant to climb at fifty.
a voice message|There is a voice message of eleven minutes and I have heard only the breathing.
the loose button|I have been turning a loose button since the meeting.
the ladder|A ladder has leaned against the house since we stopped painting it.
the tea towel|I folded the same tea towel over and over.
the compost|I talk to the robin on the compost heap.
the name tag|They spelled my name wrong on the tag and I wore it.
the empty seat|The seat beside me stayed empty although the train was full.
the garden hose|Somebody has stolen the garden hose and I laughed.
the shopping trolley|I left a full trolley standing between the shelves and walked out.
the old diary|I found a diary from ten years back with the same sentence in it.
the street lamp|The lamp outside my window goes off at one, so I know it is later.
a bowl of lemons|I bought a bowl of lemons because they looked like a decision.
the ambulance siren|Each siren makes me count who is where.
"""


def _read(lines: str) -> list[tuple[str, str]]:
    parts = (line.partition("|") for line in lines.strip().splitlines())
    return [(name, sentence) for name, _, sentence in parts]


TROUBLES, THINGS = _read(_TROUBLES), _read(_THINGS)
